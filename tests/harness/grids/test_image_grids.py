"""The packaged grids of image classifiers: read whole, and one on real digits."""

from importlib.resources import files

import pytest
import yaml

from harness.registry import find

GRIDS = (
    "digits_images",
    "mnist_dropback",
    "mnist_filters",
    "mnist_exits",
    "cifar10_dropback",
    "cifar10_filters",
    "cifar_exits",
)


def blocks(name: str) -> list[dict]:
    text = (files("harness.grids") / f"{name}.yaml").read_text()
    grid = yaml.safe_load(text)
    assert grid["name"] == name
    return grid.get("blocks", [grid])


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("kind", ["model", "method", "task"])
def test_every_option_of_a_packaged_grid_is_known_and_in_range(name, kind):
    for block in blocks(name):
        for entry in block[f"{kind}s"]:
            options = dict(entry) if isinstance(entry, dict) else {"name": entry}
            plugin = find(kind, options.pop("name"))
            assert plugin.build(options) is not None


@pytest.mark.parametrize("name", ["mnist_filters", "digits_images"])
def test_filters_are_compared_at_equal_parameters(name):
    for block in blocks(name):
        ratios = {
            find("method", entry["name"]).facts["ratio_of"]
            for entry in block["methods"]
            if isinstance(entry, dict) and "filter" in entry["name"]
        }
        assert ratios <= {"parameters"}


def test_the_mnist_filter_grid_retrains_equally():
    # Class-aware pruning: 2 epochs of the modified cost, and 1 after each cut.
    for block, cuts in zip(blocks("mnist_filters"), (2, 4), strict=True):
        methods = {m["name"]: m for m in block["methods"] if isinstance(m, dict)}
        aware = methods["class_aware_pruning"]
        spent = aware["train"]["epochs"] + cuts * aware["retrain"]["epochs"]
        assert methods["l1_filter"]["finetune"]["epochs"] == spent
        assert methods["taylor"]["finetune"]["epochs"] == spent

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
            name_of = "chain" if "chain" in options else options.pop("name")
            plugin = find(kind, name_of)
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


def test_every_method_of_the_mnist_filter_grid_trains_equally_after_its_last_cut():
    *first, last = [
        [entry["finetune"] for entry in block["methods"] if isinstance(entry, dict)]
        for block in blocks("mnist_filters")
    ]
    after = [recipe for block in first for recipe in block]
    assert len(after) == 8
    assert all(recipe == after[0] for recipe in after)
    # The last block gives two others as many epochs as class-aware pruning has in all.
    assert [recipe["epochs"] for recipe in last] == [11, 11]
    assert all({**recipe, "epochs": 3} == after[0] for recipe in last)

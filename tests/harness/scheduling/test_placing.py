"""On how many devices bundles fit, with peaks that the tests state."""

import pytest
from fixed_costs import GB, FixedCosts

from harness.planning import grid, plan
from harness.planning.trial import PluginSpec
from harness.scheduling.hardware import parse
from harness.scheduling.packing import Packer
from harness.scheduling.placing import can_spread, placed

GRID = """
models: [huggyllama/llama-7b]
methods: [dense, {method}]
ratios: [0.2, 0.4]
tasks: [wikitext2-2048]
resources: {resources}
"""


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    """The bundles of a grid on LLaMA-7B, of which only the resources differ."""
    monkeypatch.setattr(
        "harness.planning.configured_plugin.revision_of",
        lambda plugin, instance: "pinned",
    )
    monkeypatch.setattr("harness.toolkit.texts.fingerprint", lambda text: "pinned")

    def makes(resources="{gpus: 1}", method="svd"):
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.format(resources=resources, method=method))
        return plan.make(grid.read(path)).bundles

    return makes


def placing(bundles, peak, cluster="8xH100", **costs):
    costs = FixedCosts(device=peak * GB, **costs)
    return placed(bundles, Packer(cluster=parse(cluster), predictor=costs))


@pytest.mark.parametrize(
    ("peak", "cluster", "gpus", "placement", "change"),
    [
        # 90 % of an H100 of 80 GB are 72 GB.
        (72, "8xH100", 1, "device", ""),
        (72.1, "8xH100", 2, "devices", "gpus: 2"),
        (8 * 72, "8xH100", 8, "devices", "gpus: 8"),
        (8 * 72 + 1, "8xH100", None, "blockwise", "gpus: 0"),
        # Sixteen devices are two nodes, and a bundle is on one.
        (8 * 72 + 1, "16xH100", None, "blockwise", "gpus: 0"),
        # Of two kinds the one that needs fewer counts: an H200 may hold 127 GB.
        (120, "8xH100,2xH200", 1, "device", ""),
    ],
)
def test_the_least_number_of_devices_of_one_node_that_holds_the_peak(
    bundles, peak, cluster, gpus, placement, change
):
    for one in placing(bundles(), peak, cluster):
        assert (one.gpus, one.placement, one.change) == (gpus, placement, change)


def test_a_grid_that_states_enough_devices_has_nothing_to_change(bundles):
    (_, four) = placing(bundles("{gpus: 4}"), 200)
    (_, left_out) = placing(bundles("{cpus: 1}"), 200)

    assert (four.gpus, four.change) == (3, "")
    assert left_out.change == "gpus: 3"


def test_hours_and_trials_of_a_method_are_added_up(bundles):
    dense, svd = placing(bundles(), 1, each=1800.0)

    assert (dense.hours.mid, svd.hours.mid) == (0.5, 1.0)
    assert (svd.model, svd.method) == ("huggyllama/llama-7b", "svd")


def test_slicegpt_and_models_that_are_trained_here_stay_on_one_device(bundles):
    language = PluginSpec(name="m", plugin="huggingface", options='{"id": "a/b"}')
    digits = PluginSpec(name="mlp", plugin="mlp")
    method = {n: PluginSpec(name=n, plugin=n) for n in ("svd", "slicegpt")}

    assert can_spread(language, method["svd"])
    assert not can_spread(language, method["slicegpt"])
    assert not can_spread(digits, method["svd"])
    (_, sliced) = placing(bundles(method="slicegpt"), 100)
    assert sliced.placement == "blockwise"

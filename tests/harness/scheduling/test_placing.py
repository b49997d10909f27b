"""On how many devices bundles fit, with peaks that the tests state."""

from dataclasses import replace

import pytest
from fixed_costs import GB, FixedCosts

from harness.planning import grid, plan
from harness.planning.trial import PluginSpec
from harness.scheduling.hardware import CPU, Cluster, Device, Node, known, parse
from harness.scheduling.interval import Interval
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
    (_, two) = placing(bundles("{cpus: 1}"), 100)
    (_, one) = placing(bundles("{cpus: 1}"), 50)

    assert (four.gpus, four.change) == (3, "")
    assert left_out.change == "gpus: 3"
    assert (two.change, one.change) == ("gpus: 2", "")


def test_hours_and_trials_of_a_method_are_added_up(bundles):
    dense, svd = placing(bundles(), 1, each=1800.0)

    assert (dense.hours.mid, svd.hours.mid) == (0.5, 1.0)
    assert (svd.hours.low, svd.hours.high) == (0.5, 2.0)
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


class Grows(FixedCosts):
    """A processor takes ten times as long; a peak grows with the number of trials."""

    def bundle(self, bundle, device=CPU):
        need = super().bundle(bundle, device)
        peak = 50 * GB * len(bundle.trials)
        seconds = need.seconds * (10 if device == CPU else 1)
        return replace(need, seconds=seconds, device=Interval(peak, peak, peak))


def test_the_largest_bundle_of_a_method_decides(bundles):
    (whole,) = (b for b in bundles() if b.trials[0].method.name == "svd")
    half = whole.part(whole.trials[:1])

    def place(cluster):
        packer = Packer(cluster=parse(cluster), predictor=Grows(each=360.0))
        (found,) = placed([half, whole, half], packer)
        return found.peak.high / GB, found.gpus, found.hours.mid

    assert place("8xH100") == (100, 2, pytest.approx(0.4))
    # Where nothing holds it the processor computes.
    assert place("1xH100") == (100, None, pytest.approx(4.0))


def test_a_device_of_unknown_size_holds_anything_and_a_node_without_one_nothing(
    bundles,
):
    def place(**node):
        cluster = Cluster(nodes=(Node(cpus=8, **node),))
        costs = FixedCosts(device=100 * GB)
        return placed(bundles(), Packer(cluster=cluster, predictor=costs))[0].gpus

    assert place(gpus=2, device=Device(name="GPU")) == 1
    assert place(gpus=0, device=known("H200")) is None
    assert place(gpus=0) is None

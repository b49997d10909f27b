"""What bundles request, in which order they go, what is handed out at a time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planning.plan import Bundle
from harness.planning.resources import Resources
from harness.scheduling.hardware import Cluster, Device, Node, known, parse
from harness.scheduling.interval import Interval
from harness.scheduling.packing import LEAST, MARGIN, USABLE, Packer
from harness.scheduling.predictor import Need, Predictor
from harness.scheduling.priors import CONTEXT

GB = 10**9
HOST = Cluster(nodes=(Node(cpus=4, memory=16 * GB),))
EIGHT = parse("8xH100")
ANY = Interval(1, 1, 1)


def taught(bundle: Bundle, *, peak: float = 8e9, **seconds: float) -> Predictor:
    """A predictor that saw this bundle's trials on an H100."""
    predictor = Predictor()
    steps = {"load": 1.0, "fit": 1.0, "compress": 1.0, "evaluate": 1.0} | seconds
    numbers = {f"{step}_seconds": value for step, value in steps.items()}
    for trial in bundle.trials:
        numbers |= {"peak_device_bytes": peak, "peak_memory_bytes": 2e9}
        predictor.learn(trial, numbers, "NVIDIA H100 80GB HBM3")
    return predictor


def test_a_bundle_asks_for_the_share_that_its_peak_is_of_the_device(plan):
    (bundle,) = plan().bundles
    request = Packer(cluster=EIGHT, predictor=taught(bundle)).request(bundle)

    assert request.gpus == pytest.approx(
        (8 * GB + CONTEXT) * MARGIN / (80 * GB), abs=1e-2
    )
    assert request.gpus * 80 * GB >= (8 * GB + CONTEXT) * MARGIN
    assert request.device_bytes == 8 * GB  # whoever looks has CUDA's own part already
    assert request.device is None


def test_no_more_must_be_free_than_a_device_can_have_free(plan):
    (bundle,) = plan().bundles
    request = Packer(cluster=EIGHT, predictor=taught(bundle, peak=79.7e9)).request(
        bundle
    )

    assert request.gpus == 1
    assert request.device_bytes == USABLE * 80 * GB


def test_what_was_seen_of_another_batch_sends_no_bundle_back(plan):
    (bundle,) = plan().bundles
    other = bundle.part(tuple(t for t in bundle.trials if t.task.options == "{}"))
    predictor = taught(other)
    packer = Packer(cluster=EIGHT, predictor=predictor)

    assert packer.request(other).device_bytes == 8 * GB
    assert packer.request(bundle).device_bytes is None


@pytest.mark.parametrize(("gpus", "slots"), [(0.35, 16), (0.5, 16), (0.55, 8), (1, 8)])
def test_a_share_above_a_half_fills_a_device(plan, gpus, slots):
    bundles = plan().bundles
    some = [replace(b, resources=Resources(gpus=gpus)) for b in bundles] * 100

    assert Packer(cluster=EIGHT).width(some) == slots


@given(peak=st.floats(1e6, 60e9))
@settings(max_examples=50, deadline=None)
def test_bundles_that_share_a_device_fit_on_it_with_the_margin(peak):
    size = known("H100").bytes or 0
    packer = Packer(cluster=EIGHT)
    need = Need(
        seconds=ANY,
        setup=0.0,
        device=Interval(0, 0, peak + CONTEXT),
        host=ANY,
        known=True,
        guessed=False,
    )
    bundle = Bundle(trials=(), artifacts=(), resources=Resources())

    share, kind, checked = packer._devices(bundle, need)

    assert kind is None
    assert checked == pytest.approx(peak, abs=1)
    together = int(1 / share + 1e-9)
    assert 1 <= together <= 1 / LEAST
    assert together * (peak + CONTEXT) * MARGIN <= size


def test_without_a_device_nothing_of_one_is_asked(plan):
    (bundle,) = plan().bundles
    request = Packer(cluster=HOST).request(bundle)

    assert request.gpus == 0
    assert request.memory is not None
    assert 0 < request.memory <= 0.9 * 16 * GB
    assert request.device_bytes is None


@pytest.mark.parametrize(
    ("resources", "gpus", "memory"),
    [
        ("{gpus: 0.25}", 0.25, None),
        ("{gpus: 2}", 2, None),
        ("{gpus: 0, memory: 3GB}", 0, 3 * GB),
        ("{device_memory: 20GB}", 0.29, None),  # 20 x 1.15 / 80, rounded up
    ],
)
def test_numbers_of_the_grid_are_obeyed(plan, resources, gpus, memory):
    (bundle,) = plan(more=f"resources: {resources}").bundles
    request = Packer(cluster=EIGHT).request(bundle)

    assert request.gpus == pytest.approx(gpus)
    assert memory is None or request.memory == memory


def test_a_device_of_unknown_size_is_given_whole(plan):
    (bundle,) = plan().bundles
    unknown = Cluster(nodes=(Node(cpus=4, gpus=2, device=Device(name="GPU")),))

    assert Packer(cluster=unknown).request(bundle).gpus == 1


def test_of_several_kinds_the_smallest_that_fits_is_asked_for(plan):
    (bundle,) = plan().bundles
    mixed = parse("4xT4,4xL4,4xH100")

    small = Packer(cluster=mixed, predictor=taught(bundle, peak=2e9)).request(bundle)
    middle = Packer(cluster=mixed, predictor=taught(bundle, peak=18e9)).request(bundle)
    huge = Packer(cluster=mixed, predictor=taught(bundle, peak=99e9)).request(bundle)

    assert small.device is None  # anywhere; the share is that of the smallest
    assert small.gpus == pytest.approx(2.6 * MARGIN / 16, abs=1e-2)
    assert (middle.device, huge.device) == ("L4", "H100")
    assert huge.gpus == 1


def test_a_bundle_whose_prediction_lied_gets_its_device_alone(plan):
    (bundle,) = plan().bundles
    packer = Packer(cluster=EIGHT, predictor=taught(bundle))

    assert packer.request(replace(bundle, underestimated=1)).gpus == 1
    on_host = Packer(cluster=HOST, predictor=taught(bundle))
    before, after = (
        on_host.request(replace(bundle, underestimated=n)).memory for n in (0, 1)
    )
    assert before is not None
    assert after == 2 * before


def test_a_measurement_of_speed_has_a_whole_device_or_all_processors_of_a_node(plan):
    (bundle,) = plan().bundles
    alone = replace(bundle, exclusive=True)
    nodes = (Node(cpus=4), Node(cpus=16))

    assert Packer(cluster=Cluster(nodes=nodes)).request(alone).cpus == 16
    assert Packer(cluster=EIGHT, predictor=taught(bundle)).request(alone).gpus == 1
    two = replace(alone, resources=Resources(gpus=2))
    assert Packer(cluster=EIGHT).request(two).gpus == 2


def test_the_longest_go_first_and_what_needs_a_device_alone_goes_last(plan):
    bundles = plan("toy_drop, dense, magnitude").bundles
    alone = replace(bundles[0], exclusive=True)
    predictor = Predictor()
    for bundle, seconds in zip(bundles, (5.0, 1.0, 9.0), strict=True):
        for trial in bundle.trials:
            numbers = {f"{s}_seconds": seconds for s in ("load", "fit", "compress")}
            predictor.learn(trial, numbers | {"evaluate_seconds": 1.0}, "CPU")
    packer = Packer(cluster=parse("1xCPU"), predictor=predictor)

    arranged = packer.arrange([alone, *bundles])

    names = [b.trials[0].method.name for b in arranged]
    assert names == ["magnitude", "toy_drop", "dense", "toy_drop"]
    assert arranged[-1].exclusive


def test_bundles_are_cut_until_every_slot_has_one(plan):
    made = plan(ratios=8)

    parts = Packer(cluster=parse("4xCPU")).arrange(made.bundles)

    assert len(parts) >= 4
    trials = [t.id for b in parts for t in b.trials]
    assert sorted(trials) == sorted(t.id for b in made.bundles for t in b.trials)
    # By ratio: both tasks of a ratio stay together, so that it is compressed once.
    for part in parts:
        ratios = [t.ratio for t in part.trials]
        assert all(ratios.count(r) == 2 for r in ratios)


def test_a_bundle_that_is_mostly_its_fit_is_not_cut(plan):
    made = plan(ratios=8)
    (bundle,) = made.bundles
    predictor = taught(bundle, fit=1000.0)

    assert len(Packer(cluster=parse("4xH100"), predictor=predictor)._cut([bundle])) == 1
    quick = taught(bundle, fit=0.1, load=0.1)
    assert len(Packer(cluster=parse("4xH100"), predictor=quick)._cut([bundle])) > 1

"""What bundles request, in which order they go, what is handed out at a time."""

import math
from dataclasses import replace
from typing import Any

import pytest
from fixed_costs import FixedCosts, packer
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planning.messages import Event
from harness.planning.plan import Artifact, Bundle
from harness.planning.resources import ResourceRequest, Resources
from harness.scheduling.hardware import CPU, Cluster, Device, Node, known, parse
from harness.scheduling.interval import Interval
from harness.scheduling.packing import LEAST, MARGIN, USABLE, Packer, _slot, amounts
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
    assert request.device_bytes == 8 * GB  # CUDA's context is already counted
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


def test_a_bundle_that_is_mostly_its_fit_is_not_cut(plan):
    made = plan(ratios=8)
    (bundle,) = made.bundles
    predictor = taught(bundle, fit=1000.0)

    assert len(Packer(cluster=parse("4xH100"), predictor=predictor)._cut([bundle])) == 1
    quick = taught(bundle, fit=0.1, load=0.1)
    assert len(Packer(cluster=parse("4xH100"), predictor=quick)._cut([bundle])) > 1


def test_the_wait_for_an_artifact_counts_in_the_order(plan):
    bundles = plan("toy_drop, magnitude", ratios=1, tasks="[toy_sum]").bundles
    first, second = bundles
    model = first.trials[0].model
    artifact = Artifact(kind="dense", model=model, dtype="float32")
    waits = replace(second, artifacts=(artifact,))

    slow = packer("1xCPU", artifact=5.0).arrange([first, waits])
    quick = packer("1xCPU", artifact=0.0).arrange([first, waits])

    assert [b.trials[0].method.name for b in slow] == ["magnitude", "toy_drop"]
    assert [b.trials[0].method.name for b in quick] == ["toy_drop", "magnitude"]


def test_equally_long_bundles_keep_their_order(plan):
    bundles = plan("toy_drop, dense, magnitude, svd", ratios=1).bundles
    arranged = packer("1xCPU").arrange(bundles)

    assert [b.id for b in arranged] == [b.id for b in bundles]


def test_a_cut_by_ratio_goes_before_one_by_task(plan):
    (bundle,) = plan(ratios=1).bundles  # two tasks at one ratio
    parts = packer("2xCPU").arrange([bundle])

    assert [[t.task.options for t in b.trials] for b in parts] == [
        ["{}"],
        ['{"by":2.0}'],
    ]


def test_the_order_is_computed_again_after_64_trials_and_whenever_they_double(plan):
    (bundle,) = plan().bundles
    own = packer("1xCPU")
    stale = []
    for learnt in (63, 64, 100, 199, 200):
        own.predictor.learnt = learnt
        stale.append(own.stale())
        if learnt == 100:
            own.arrange([bundle])

    assert stale == [False, True, True, False, True]


def test_slots_are_counted_by_the_scarcest_resource(plan):
    (bundle,) = plan().bundles
    cluster = Cluster(nodes=(Node(cpus=16, memory=40 * GB),))
    own = Packer(cluster=cluster, predictor=FixedCosts())
    asks = [
        replace(bundle, resources=Resources(cpus=4, memory="1GB")),
        replace(bundle, resources=Resources(cpus=1, memory="20GB")),
    ]

    assert own.width([asks[0]]) == 4  # processors
    assert own.width([asks[1]]) == 2  # memory
    # Pairs of both take 5 of 16 processors and 21 of 40 GB: 1.9 pairs.
    assert own.width(asks) == 3
    assert own.width([]) == 1
    assert own.width([replace(bundle, resources=Resources(cpus=64))]) == 1


def test_memory_that_the_grid_states_doubles_up_to_the_largest_node(plan):
    (bundle,) = plan(more="resources: {memory: 6GB}").bundles
    own = Packer(cluster=HOST, predictor=FixedCosts())
    asked = [own.request(replace(bundle, underestimated=n)).memory for n in range(3)]

    assert asked == [6 * GB, 12 * GB, 16 * GB]
    unknown = packer("4xCPU")
    assert unknown.request(replace(bundle, underestimated=2)).memory == 24 * GB
    large = replace(bundle, resources=Resources(memory="20GB"))
    assert own.request(large).memory == 20 * GB  # the check before the run refuses it


def test_predicted_memory_is_requested_in_steps_with_a_margin(plan):
    (bundle,) = plan().bundles
    own = Packer(cluster=HOST, predictor=FixedCosts(host=2 * GB))

    # 2.3 GB are 4.3 steps of 512 MiB.
    assert own.request(bundle).memory == 5 * 512 * 2**20
    assert packer("4xCPU").request(bundle).memory is None
    full = Packer(cluster=HOST, predictor=FixedCosts(host=20 * GB))
    assert full.request(bundle).memory == USABLE * 16 * GB


def test_host_memory_is_checked_where_it_was_measured_or_stated(plan):
    (bundle,) = plan().bundles
    stated = replace(bundle, resources=Resources(memory="6GB"))

    def checked(one: Bundle, cluster: Cluster = HOST, **costs: Any) -> int | None:
        own = Packer(cluster=cluster, predictor=FixedCosts(host=2 * GB, **costs))
        return own.request(one).host_bytes

    assert checked(bundle) == 2 * GB
    assert checked(bundle, known=False) is None
    assert checked(stated, known=False) == 6 * GB
    assert checked(stated, parse("4xCPU")) == 6 * GB
    large = replace(bundle, resources=Resources(memory="20GB"))
    assert checked(large) == USABLE * 16 * GB


def test_seconds_are_predicted_for_the_hardware_that_the_bundle_gets(plan):
    (bundle,) = plan().bundles
    seen: list[str] = []

    class Ear(FixedCosts):
        def bundle(self, bundle, device=CPU):
            seen.append(device.name)
            return super().bundle(bundle, device)

    for cluster, gpus in (("1xT4,1xH100", None), ("1xH100", 0), ("4xCPU", None)):
        own = Packer(cluster=parse(cluster), predictor=Ear())
        own.need(replace(bundle, resources=Resources(gpus=gpus)))

    assert seen == ["T4", "CPU", "CPU"]


def test_what_a_trial_took_is_learnt_of_the_hardware_that_it_had(plan):
    (bundle,) = plan().bundles
    seen: list[str] = []

    class Ear(FixedCosts):
        def learn(self, trial, numbers, device):
            seen.append(device)

    own = Packer(cluster=parse("1xT4,1xH100"), predictor=Ear())
    for request in (
        ResourceRequest(cpus=1, gpus=1, device="H100"),
        ResourceRequest(cpus=1, gpus=1),
        ResourceRequest(cpus=1),
    ):
        own.learn(bundle.trials[0], request, Event(what="ended"))

    assert seen == ["H100", "T4", "CPU"]


def test_a_bundle_that_exactly_fits_a_device_gets_the_whole_of_it(plan):
    (bundle,) = plan().bundles
    exact = math.floor(16 * GB / MARGIN)

    own = packer("1xT4,1xL4", device=exact)
    assert (own.request(bundle).gpus, own.request(bundle).device) == (1, None)
    more = packer("1xT4,1xL4", device=exact + 1)
    assert more.request(bundle).device == "L4"
    huge = packer("2xT4", device=99 * GB)
    assert (huge.request(bundle).gpus, huge.request(bundle).device) == (1, None)


def test_devices_of_an_unknown_size_set_no_limit_and_name_no_kind(plan):
    (bundle,) = plan().bundles
    unknown = Node(cpus=4, gpus=1, device=Device(name="GPU"))
    known_sizes = [Node(cpus=4, gpus=1, device=known(name)) for name in ("T4", "H100")]

    # Of the sizes that are known the largest bounds what has to be free.
    mixed = Cluster(nodes=(unknown, *known_sizes))
    huge = Packer(cluster=mixed, predictor=FixedCosts(device=99 * GB)).request(bundle)
    assert (huge.device, huge.device_bytes) == ("H100", USABLE * 80 * GB)
    one = Cluster(nodes=(known_sizes[0],))
    only = Packer(cluster=one, predictor=FixedCosts(device=99 * GB)).request(bundle)
    assert (only.device, only.gpus) == (None, 1)  # the only kind of device
    two = Cluster(nodes=(known_sizes[0], unknown))
    other = Packer(cluster=two, predictor=FixedCosts(device=99 * GB)).request(bundle)
    assert other.device == "T4"


def test_a_request_without_memory_takes_none(plan):
    (bundle,) = plan().bundles
    request = packer("4xCPU").request(bundle)

    assert request.memory is None
    assert amounts(request) == {"cpu": request.cpus, "gpu": 0, "memory": 0}
    # Where the memory of nodes is unknown, the processors alone count.
    assert packer("4xCPU").width([bundle]) == 4 // request.cpus
    assert _slot(replace(request, gpus=0.4))["gpu"] == 0.5
    assert _slot(replace(request, gpus=1.0))["gpu"] == 1
    assert _slot(replace(request, gpus=2.0))["gpu"] == 2

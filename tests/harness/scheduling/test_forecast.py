"""How long a plan takes on a cluster, as a sentence and as numbers."""

from dataclasses import replace

import pytest
from finished import stored

from harness.planning.plan import Artifact
from harness.planning.resources import Resources
from harness.scheduling.forecast import ONE, forecast, sentences
from harness.scheduling.hardware import CPU, parse
from harness.scheduling.interval import Interval
from harness.scheduling.predictor import Need, Predictor


@pytest.mark.parametrize("asked", ["gpus: 16", "cpus: 99", "device_memory: 200GB"])
def test_what_no_node_can_hold_is_said_and_one_slot_holds_everything(
    asked, plan, tmp_path
):
    made = plan()
    bundles = [replace(b, resources=asks(asked)) for b in made.bundles]
    made = replace(made, bundles=bundles)

    (line,) = sentences(made, parse("16xH100"), Predictor())
    alone = list(sentences(made, ONE, Predictor()))

    assert line.startswith("no forecast: ")
    assert "toy_drop on toy requests" in line
    assert alone[0].endswith("of work for one slot")


def asks(text: str) -> Resources:
    name, _, value = text.partition(": ")
    number = value if name == "device_memory" else int(value)
    return Resources(**{name: number})


def test_a_forecast_fills_the_cluster_and_adds_up(plan, tmp_path):
    made = plan("toy_drop, dense, magnitude")
    predictor = stored(plan(), tmp_path)

    one = forecast(made, ONE, predictor)
    many = forecast(made, parse("4xH100"), predictor)

    assert one.seconds.mid == pytest.approx(one.busy.mid)
    assert many.seconds.mid < one.seconds.mid
    assert many.busy.low <= many.busy.mid <= many.busy.high
    said = "\n".join(sentences(made, parse("4xH100"), predictor))
    assert "on 4xH100: about" in said
    assert "device-hours" in said
    assert "no history for " in said


class Fixed(Predictor):
    """Every bundle takes 8 to 14 s, 10 s most likely; every artifact 50 to 300 s."""

    def bundle(self, bundle, device=CPU):
        size = len(bundle.trials)
        return Need(
            seconds=Interval(8.0, 10.0, 14.0),
            setup=9.0,
            device=Interval(1e9, 2e9, size * 1e9),
            host=Interval(1e9, 3e9, 2 * size * 1e9),
            known=True,
            guessed=bundle.trials[0].method.name == "dense",
        )

    def artifact(self, artifact, device=CPU):
        return Interval(50.0, 100.0, 300.0)


def test_errors_of_one_method_add_up_and_those_of_different_methods_as_squares(plan):
    one = forecast(plan(), ONE, Fixed()).seconds
    twice = replace(plan(), bundles=plan().bundles * 2)
    same = forecast(twice, ONE, Fixed()).seconds
    different = forecast(plan("toy_drop, magnitude"), ONE, Fixed()).seconds

    assert one == Interval(pytest.approx(8), 10, pytest.approx(14))
    single = forecast(plan(ratios=1, tasks="[toy_sum]"), ONE, Fixed()).seconds
    assert single == one  # of one trial
    assert same == Interval(pytest.approx(16), 20, pytest.approx(28))
    # 20 - root(2^2 + 2^2) and 20 + root(4^2 + 4^2).
    assert different == Interval(
        pytest.approx(20 - 8**0.5), 20, pytest.approx(20 + 32**0.5)
    )


def test_errors_of_artifacts_of_one_model_add_up_too(plan):
    made = plan()
    (bundle,) = made.bundles
    model = bundle.trials[0].model
    artifacts = tuple(
        Artifact(kind="dense", model=model, dtype="float32", seed=seed)
        for seed in (0, 1)
    )
    made = replace(made, bundles=[replace(bundle, artifacts=artifacts)])

    found = forecast(made, ONE, Fixed()).seconds

    # Both at once 100 to 600 s, 200 s most likely; the bundle as above.
    assert found.mid == 210
    assert found.low == pytest.approx(210 - (100**2 + 2**2) ** 0.5)
    assert found.high == pytest.approx(210 + (400**2 + 4**2) ** 0.5)


def test_the_largest_bundle_decides_the_memory_and_priors_are_counted(plan):
    made = plan("toy_drop, dense")  # four trials and, at its one ratio, two
    found = forecast(made, ONE, Fixed())

    assert [len(b.trials) for b in made.bundles] == [4, 2]
    assert (found.device.high, found.host.high) == (4e9, 8e9)
    assert found.guessed == 2
    assert found.shares == 1  # none asks for a device


def test_bundles_that_share_a_device_count_their_part_of_it(plan):
    made = plan(more="resources: {gpus: 0.5}")
    made = replace(made, bundles=made.bundles * 4)

    found = forecast(made, parse("1xH100"), Fixed())

    # Two at a time, each on half of the device: 20 s, all of it busy.
    assert found.shares == 2
    assert (found.seconds.mid, found.busy.mid) == (20, 20)


def test_a_forecast_reads_as_sentences(plan):
    made = plan("toy_drop, dense", more="resources: {gpus: 0.5}")

    on_device = list(sentences(made, parse("2xH100"), Fixed()))
    on_cpu = list(sentences(plan(), parse("1xCPU"), Fixed()))

    # dense is cut in two, since slots are idle and its time is a guess: three bundles
    # of 10 s on half a device each are 15 s of a device.
    assert on_device == [
        "on 2xH100: about 10.0 s (8.6 s to 12.8 s), 0.00417 (0.00358 to 0.00535) "
        "device-hours",
        "largest bundle: 2 GB (1 GB to 4 GB) on a device, 3 GB (1 GB to 8 GB) on its "
        "host; 2 bundles share a device",
        "no history for 2 of 6 trials: default estimates are used (within a factor of "
        "ten)",
    ]
    assert on_cpu == [
        "on 1xCPU: about 10.0 s (8.0 s to 14.0 s), 0.00278 (0.00222 to 0.00389) "
        "processor-hours",
        "largest bundle: 3 GB (1 GB to 8 GB) of host memory",
    ]


def test_a_finished_plan_has_no_work_left(plan):
    made = replace(plan(), bundles=[])

    assert list(sentences(made, parse("1xH100"), Fixed())) == ["no work left"]

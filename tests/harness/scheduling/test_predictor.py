"""Predictions: what was seen, moved to what was not, and priors for the rest."""

from dataclasses import replace

import pytest
from finished import stored

from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.plan import Artifact
from harness.scheduling.hardware import known
from harness.scheduling.interval import Interval
from harness.scheduling.predictor import Predictor
from harness.scheduling.priors import BASE, CONTEXT, step_seconds, tokens
from results.storage.store import open_store

H100 = known("H100")


def test_a_bundle_like_one_that_ended_takes_as_long_and_as_much(plan, tmp_path):
    made = plan()
    found = stored(made, tmp_path).bundle(made.bundles[0], H100)

    # 5 to load, 20 to fit, 2 ratios x 3, 4 evaluations x 2.
    assert found.seconds.mid == pytest.approx(39)
    assert found.setup == pytest.approx(25)
    assert found.device.high == 10**9 + CONTEXT
    assert found.host.high == 2 * 10**9
    assert found.known
    assert not found.guessed


def test_another_device_takes_longer_by_the_root_of_the_published_speeds(
    plan, tmp_path
):
    made = plan()
    predictor = stored(made, tmp_path)
    here = predictor.bundle(made.bundles[0], H100).seconds
    there = predictor.bundle(made.bundles[0], known("T4")).seconds

    assert there.mid / here.mid == pytest.approx((67 / 8.1) ** 0.5)


def test_another_option_is_predicted_from_its_sisters_with_a_wider_interval(
    plan, tmp_path
):
    predictor = stored(plan(), tmp_path)
    other = plan("toy_drop").bundles[0]
    scaled = (
        (tmp_path / "grid.yaml").read_text().replace("[toy]", "[{name: toy, scale: 2}]")
    )
    (tmp_path / "grid.yaml").write_text(scaled)
    moved = plans.make(grids.read(tmp_path / "grid.yaml")).bundles[0]

    sure = predictor.bundle(other, H100).seconds
    unsure = predictor.bundle(moved, H100).seconds

    assert unsure.mid == pytest.approx(sure.mid)
    assert unsure.high > sure.high
    assert unsure.low < sure.low


def test_between_models_moves_how_far_off_the_prior_was(plan, tmp_path):
    # 7,000 times the parameters: of the 5 s of load most are overhead and stay.
    made = plan()
    predictor = stored(made, tmp_path)
    first = made.bundles[0].trials[0]
    large = replace(first.model, name="x/llama-7b")
    moved = replace(
        made.bundles[0],
        trials=tuple(replace(t, model=large) for t in made.bundles[0].trials),
    )
    mid, speed = H100.relative_speed(), {}
    for step in ("load", "fit"):
        small = step_seconds(step, first.method, 10**6, mid).mid
        speed[step] = step_seconds(step, first.method, 7 * 10**9, mid).mid / small

    found = predictor.bundle(moved, H100)

    assert found.setup == pytest.approx(5 * speed["load"] + 20 * speed["fit"])
    assert speed["load"] < 700


def test_without_history_a_prior_says_that_it_is_one(plan):
    found = Predictor().bundle(plan().bundles[0])

    assert found.guessed
    assert not found.known
    assert found.seconds.high == pytest.approx(10 * found.seconds.mid)
    assert found.host.low > BASE


def test_a_larger_batch_takes_what_does_not_belong_to_the_weights_as_often(
    plan, tmp_path
):
    made = plan()
    predictor = stored(made, tmp_path)
    bundle = made.bundles[0]
    task = replace(
        bundle.trials[0].task, options='{"batch": 8}', protocol='{"batch": 8}'
    )
    larger = replace(bundle, trials=(replace(bundle.trials[0], task=task),))

    # 4 MB of weights, the other 996 MB eight times, a fifth more for the options.
    expected = 1.2 * (4e6 + 8 * (1e9 - 4e6)) + CONTEXT
    assert predictor.bundle(larger, H100).device.high == pytest.approx(expected)
    assert tokens('{"batch": 8, "window": 128, "text": "x"}') == 1024


def test_what_was_seen_on_a_processor_stands_for_a_device_without_what_python_takes(
    plan,
):
    made = plan()
    predictor = Predictor()
    for trial in made.bundles[0].trials:
        predictor.learn(trial, {"peak_memory_bytes": BASE + 2e9, "threads": 1}, "Xeon")

    found = predictor.bundle(made.bundles[0], H100)

    assert found.device.high == pytest.approx(2e9 + CONTEXT)
    assert not found.known  # of that device nothing was seen


def test_what_is_new_changes_a_prediction_at_once_and_the_rest_in_time(plan):
    (bundle,) = plan().bundles
    predictor = Predictor()
    load = {"load_seconds": 1.0, "threads": 1}
    trial = bundle.trials[0]

    guessed = predictor.bundle(bundle, H100).seconds.mid
    predictor.learn(trial, load, "NVIDIA H100")
    assert predictor.bundle(bundle, H100).seconds.mid < guessed  # the first of its kind
    for _ in range(999):
        predictor.learn(trial, load, "NVIDIA H100")
    before = predictor.bundle(bundle, H100)
    predictor.learn(trial, {**load, "peak_device_bytes": 3e9}, "NVIDIA H100")
    larger = predictor.bundle(bundle, H100)
    assert larger.device.high > before.device.high  # a peak is never forgotten
    for _ in range(50):
        predictor.learn(trial, load | {"load_seconds": 100.0}, "NVIDIA H100")
    assert predictor.bundle(bundle, H100).seconds.mid > before.seconds.mid + 3


def test_the_largest_peak_of_the_tasks_counts_and_all_must_have_been_seen(plan):
    (bundle,) = plan().bundles
    small, large = (
        next(t for t in bundle.trials if t.task.options == options)
        for options in ("{}", '{"by":2.0}')
    )
    predictor = Predictor()
    predictor.learn(
        small, {"peak_device_bytes": 2e9, "peak_memory_bytes": 3e9}, "NVIDIA H100"
    )
    only_small = bundle.part((small,))
    assert predictor.bundle(only_small, H100).known
    assert not predictor.bundle(bundle, H100).known
    predictor.learn(
        large, {"peak_device_bytes": 5e9, "peak_memory_bytes": 7e9}, "NVIDIA H100"
    )

    found = predictor.bundle(bundle, H100)

    assert (found.device.high, found.host.high) == (5e9 + CONTEXT, 7e9)
    assert found.known
    assert predictor.bundle(only_small, H100).device.high == 2e9 + CONTEXT


def test_an_artifact_that_the_store_has_takes_no_time(plan, tmp_path):
    model = plan().bundles[0].trials[0].model
    artifact = Artifact(kind="dense", model=model, dtype="float32")
    store = open_store(tmp_path / "s", create=True)
    assert Predictor.of(store).artifact(artifact).mid > 0

    (store.here("artifacts") / artifact.id).mkdir(parents=True)

    assert Predictor.of(store).artifact(artifact) == Interval(0, 0, 0)
    assert Predictor.of(None).artifact(artifact).mid > 0
    assert Predictor.of(None).learnt == 0


def test_a_prediction_is_kept_until_the_history_grew_by_two_per_cent(plan):
    (bundle,) = plan().bundles
    predictor, trial = Predictor(), bundle.trials[0]
    changed, last = [], None
    for count in range(1, 112):
        predictor.learn(trial, {"load_seconds": 1.0, "threads": 1}, "NVIDIA H100")
        found = predictor.bundle(bundle, H100)
        assert predictor.bundle(bundle, H100) is found
        if found is not last:
            changed.append(count)
        last = found

    # 1.02 times 50 is 51; then every second one, and above 100 every third one.
    assert changed == [*range(1, 52), *range(53, 102, 2), 104, 107, 110]
    assert predictor.learnt == 111


def test_no_less_than_a_tenth_remains_when_something_else_is_subtracted(plan):
    (bundle,) = plan().bundles
    predictor = Predictor()
    for trial in bundle.trials:
        predictor.learn(trial, {"peak_memory_bytes": BASE / 2, "threads": 1}, "Xeon")

    found = predictor.bundle(bundle, H100)

    assert found.device.high == pytest.approx(BASE / 20 + CONTEXT)


def test_a_method_without_a_fit_is_not_a_guess_for_its_fit(plan):
    (bundle,) = plan("toy_noop").bundles
    predictor = Predictor()
    numbers = {f"{s}_seconds": 1.0 for s in ("load", "compress", "evaluate")}
    for trial in bundle.trials:
        predictor.learn(trial, numbers, "NVIDIA H100")

    found = predictor.bundle(bundle, H100)

    assert not found.guessed
    assert found.setup == 1

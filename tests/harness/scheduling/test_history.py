"""What finished trials teach, from a store and from a running grid."""

from dataclasses import replace

import pytest
from finished import row, stored

from harness.executors.inline import Inline
from harness.planning.trial import PluginSpec
from harness.running.driver import Driver
from harness.scheduling.hardware import known
from harness.scheduling.history import History, Seen, step_keys, unit
from harness.scheduling.interval import Interval
from harness.scheduling.predictor import Predictor
from results.queries.db import ask
from results.storage.store import open_store

H100 = known("H100")


def test_the_view_steps_tells_loading_from_what_later_trials_repeat(plan, tmp_path):
    stored(plan(), tmp_path)

    rows = ask(
        open_store(tmp_path / "history"),
        "SELECT load_seconds, fit_seconds, compress_seconds, evaluate_seconds "
        "FROM steps ORDER BY seconds DESC, ratio, task_options DESC",
    ).rows
    assert sorted(rows, key=str) == sorted(
        [(5, 20, 3, 2), (None, None, 3, 2), (None, None, None, 2)] + [rows[-1]], key=str
    )
    assert rows[-1] == (None, None, None, 2)


def test_a_run_teaches_what_its_store_teaches(plan, tmp_path):
    made = plan()
    store = open_store(tmp_path / "s", create=True)
    numbers = {}

    class Ear:
        def event(self, job, trial, event) -> None:
            if event.numbers:
                numbers[trial.id] = (trial, event.numbers)

    Driver(plan=made, store=store, executor=Inline(), watcher=Ear()).run()
    live = Predictor()
    for trial, measured in numbers.values():
        live.learn(trial, measured, "Intel(R) Xeon(R)")

    assert len(numbers) == 4
    from_store = Predictor.of(store).bundle(made.bundles[0])
    from_run = live.bundle(made.bundles[0])
    assert from_run.seconds.mid == pytest.approx(from_store.seconds.mid, rel=1e-6)
    assert from_run.host.high == pytest.approx(from_store.host.high, rel=0.05)


@pytest.mark.parametrize("text", ["{", "[3]", '{"a"'])
@pytest.mark.parametrize("column", ["method_options", "protocol_fields"])
def test_a_stored_row_that_is_no_json_teaches_nothing(column, text, plan, tmp_path):
    made = plan()
    trial = made.bundles[0].trials[0]
    store = open_store(tmp_path / "broken", create=True)
    peaks = {"peak_device_bytes": 10**9, "peak_memory_bytes": 2 * 10**9}
    store.append(row(trial, seconds=3.0, **peaks, **{column: text}))

    assert Predictor.of(store).bundle(made.bundles[0], H100).seconds.mid > 0


def test_a_summary_adds_up_counts_and_keeps_the_outermost_quantiles():
    seen = Seen()
    seen.add(1.0, (2, 10.0, 8.0, 12.0))
    seen.add(2.0, (1, 10.0, 3.0, 11.0))

    # (2 x 10 + 1 x 20) / 3, from min(8, 2 x 3) to max(12, 2 x 11).
    assert seen.interval() == Interval(6.0, pytest.approx(40 / 3), 22.0)


def test_each_level_of_detail_forgets_more():
    keys = step_keys("fit", ("svd", "{}"), ("opt", "{}"), "float32", "H100")

    assert keys == (
        ("fit", "svd", "{}", "opt", "{}", "float32", "H100"),
        ("fit", "svd", "{}", "opt", "{}", "float32"),
        ("fit", "svd", "opt"),
        ("fit", "svd"),
    )


def test_seconds_are_kept_in_the_unit_of_their_level(toys):
    part = PluginSpec(name="toy_drop", plugin="toy_drop")
    guess = ("load", part, 10**6)

    assert unit(0, 4.0, guess) == 1
    assert unit(1, 4.0, guess) == unit(2, 4.0, guess) == 4
    # Multiples of the prior: 3 s, and 0.05 s for a million parameters at speed 1.
    assert unit(3, 4.0, guess) == pytest.approx(1 / (3 + 0.05 / 4))
    assert unit(3, 4.0, ("load", part, None)) is None  # of unknown size
    dense = PluginSpec(name="dense", plugin="dense")
    assert unit(3, 4.0, ("fit", dense, 10**6)) is None  # a prior of zero
    gone = PluginSpec(name="removed-method", plugin="removed-method")
    assert unit(3, 4.0, ("load", gone, 10**6)) is None


def measured(plan, **numbers) -> History:
    """A history of one trial."""
    made = History()
    made.learn(plan().bundles[0].trials[0], numbers, "NVIDIA H100 80GB HBM3")
    return made


def test_a_measured_number_of_parameters_stands_for_every_option_of_a_model(plan):
    history = measured(plan, params_dense=123)
    model = plan().bundles[0].trials[0].model

    assert history.params(model) == 123
    assert history.params(replace(model, options='{"scale": 2}')) == 123
    assert measured(plan).params(model) != 123


def test_the_largest_peak_stands_with_its_tokens_and_weights(plan):
    history = measured(plan, peak_device_bytes=100.0, bytes_dense=40)
    trial = plan().bundles[0].trials[0]
    device = {k: v for k, v in history.peaks.items() if k[0] == "device"}

    assert set(device.values()) == {(100.0, 1, 40)}
    assert len(device) == 2  # of this task, and of any task
    assert not any(k[0] == "memory" for k in history.peaks)
    for smaller in (90.0, 100.0):
        history.learn(trial, {"peak_device_bytes": smaller, "bytes_dense": 40}, "H100")
    assert set(history.peaks.values()) == {(100.0, 1, 40)}
    history.learn(trial, {"peak_device_bytes": 101.0}, "H100")
    assert set(history.peaks.values()) == {(101.0, 1, 0)}


def test_a_peak_is_kept_with_the_tokens_of_its_protocol(plan):
    trial = plan().bundles[0].trials[0]
    history = History()
    for peak, protocol in ((1.0, ""), (2.0, '{"batch_size": 8, "window": 4}')):
        asked = replace(trial, task=replace(trial.task, protocol=protocol))
        history.learn(asked, {"peak_memory_bytes": peak}, "CPU")
        assert set(history.peaks.values()) == {(peak, 32 if protocol else 1, 0)}


def test_a_trial_of_the_run_counts_as_one_beside_those_of_the_store(plan, tmp_path):
    trial = plan().bundles[0].trials[0]
    store = open_store(tmp_path / "s", create=True)
    for take in range(3):
        numbers = {"seconds": 100.0, "evaluate_seconds": 1.0}
        store.append(row(trial, take=take, dtype=trial.dtype, **numbers))
    history = History.of(store)
    history.learn(trial, {"evaluate_seconds": 5.0, "threads": 1}, "NVIDIA H100")

    (seen,) = [
        s for k, s in history.seconds.items() if k[0] == "evaluate" and len(k) == 7
    ]
    assert seen.interval().mid == pytest.approx(2.0)  # (3 x 1 + 5) / 4


def test_news_are_new_keys_larger_peaks_and_other_sizes_only(plan):
    trial = plan().bundles[0].trials[0]
    history = History()
    rows = [
        ({"load_seconds": 1.0}, 1),
        ({"load_seconds": 9.0}, 1),  # a further number under known keys
        ({"load_seconds": 9.0, "params_dense": 5}, 2),
        ({"load_seconds": 9.0, "params_dense": 5}, 2),
        ({"peak_memory_bytes": 10.0}, 3),
        ({"peak_memory_bytes": 9.0}, 3),
        ({"peak_memory_bytes": 11.0}, 4),
        ({"peak_memory_bytes": 11.0}, 4),
    ]
    for count, (numbers, news) in enumerate(rows, 1):
        history.learn(trial, numbers, "CPU")
        assert (history.trials, history.news) == (count, news)


def test_a_gpu_with_an_unknown_name_is_no_processor(plan):
    trial = plan().bundles[0].trials[0]
    history = History()
    history.learn(trial, {"load_seconds": 1.0, "peak_device_bytes": 5.0}, "Biren BR100")
    history.learn(trial, {"load_seconds": 1.0}, "EPYC 7B13")
    history.learn(trial, {"load_seconds": 1.0}, "NVIDIA H100 PCIe")

    kinds = {key[-1] for key in history.seconds if len(key) == 7}
    assert kinds == {"Biren BR100", "CPU", "H100"}


def test_seconds_of_four_threads_count_twice_on_one(plan):
    trial = plan().bundles[0].trials[0]
    history = History()
    history.learn(trial, {"load_seconds": 1.0, "threads": 4}, "CPU")
    history.learn(trial, {"load_seconds": 3.0}, "CPU")  # one thread

    (any_device,) = [seen for key, seen in history.seconds.items() if len(key) == 6]
    assert any_device.interval() == Interval(2.0, 2.5, 3.0)


def test_the_quantiles_of_a_store_are_its_lowest_and_highest_tenth(plan, tmp_path):
    made = plan()
    trial = made.bundles[0].trials[0]
    store = open_store(tmp_path / "many", create=True)
    for index in range(11):
        seconds = {"seconds": 100.0, "evaluate_seconds": float(index)}
        numbers = {**seconds, "peak_memory_bytes": index * 10 + 1}
        store.append(row(trial, take=index, at=index, **numbers))

    history = History.of(store)

    (seen,) = [
        s for k, s in history.seconds.items() if k[0] == "evaluate" and len(k) == 7
    ]
    assert seen.interval() == Interval(1.0, 5.0, 9.0)
    assert {peak for peak, _, _ in history.peaks.values()} == {91.0}
    assert history.params(trial.model) == 1_000_000


def test_a_store_without_trials_teaches_nothing(tmp_path):
    assert History.of(open_store(tmp_path / "new", create=True)).trials == 0


def test_options_of_a_stored_row_are_part_of_its_keys_and_missing_ones_are_none(plan):
    trial = plan().bundles[0].trials[0]
    numbers = {"peak_memory_bytes": 5.0, "params_dense": 7, "load": None}
    history = History()
    for options in ('{"a": 1}', None):
        made = row(trial, peak_device_bytes=None, **numbers)
        steps = {"fit": (1, 1.0, 1.0, 1.0), "compress": None}
        steps["evaluate"] = (1, 1.0, 1.0, 1.0)
        names = ("method_options", "model_options", "task_options")
        made |= dict.fromkeys(names, options) | steps | {"calibration": None}
        history.add(made)

    found = {options or "{}" for options in ('{"a": 1}', None)}
    exact = [key for key in history.seconds if len(key) == 7]
    of_method = {key[2][0] for key in exact if key[0] == "fit"}
    of_task = {key[2] for key in exact if key[0] == "evaluate"}
    assert of_method == of_task == {key[4] for key in exact} == found
    assert history.params(replace(trial.model, options='{"a": 1}')) == 7

"""What finished trials teach, from a store and from a running grid."""

import pytest
from finished import row, stored

from harness.executors.inline import Inline
from harness.running.driver import Driver
from harness.scheduling.hardware import known
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

"""Predictions: what was seen, moved to what was not, and priors for the rest."""

import pickle
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.core import BenchError
from harness.executors.inline import Inline
from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.plan import Plan
from harness.planning.resources import Resources
from harness.running.driver import Driver
from harness.scheduling.forecast import ONE, forecast, sentences
from harness.scheduling.hardware import CPU, Device, known, parse
from harness.scheduling.history import History
from harness.scheduling.predictor import Predictor
from harness.scheduling.priors import BASE, CONTEXT, step_seconds, tokens
from results.queries.db import ask
from results.storage.store import open_store

H100 = known("H100")
GRID = """
models: [toy]
methods: [{methods}]
ratios: [0.25, 0.5]
tasks: [toy_sum, {{name: toy_sum, by: 2}}]
"""


@pytest.fixture
def plan(tmp_path: Path, toys: Path):
    """Plan a grid of the given methods."""

    def makes(methods: str = "toy_drop") -> Plan:
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.format(methods=methods))
        return plans.make(grids.read(path))

    return makes


def row(trial, **numbers) -> dict:
    """A trial's row in a store, as a worker writes it."""
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=numbers.pop("at", 0))
    return {
        "attempt": f"{trial.id}{numbers.pop('take', '')}",
        "trial": trial.id,
        "bundle": "b",
        "method": trial.method.name,
        "method_options": trial.method.options,
        "model": trial.model.name,
        "model_options": trial.model.options,
        "task": trial.task.name,
        "task_options": trial.task.options,
        "protocol_fields": "{}",
        "ratio": trial.ratio,
        "dtype": "float32",
        "status": "ok",
        "started_at": began,
        "device": "NVIDIA H100 80GB HBM3",
        "threads": 1,
        "params_dense": 1_000_000,
        "bytes_dense": 4_000_000,
        **numbers,
    }


def stored(plan: Plan, folder: Path) -> Predictor:
    """Two ratios, two tasks: load 5 s, fit 20 s, compress 3 s, evaluate 2 s."""
    store = open_store(folder / "history", create=True)
    (bundle,) = plan.bundles
    same = {"fit_seconds": 20.0, "compress_seconds": 3.0, "evaluate_seconds": 2.0}
    for index, trial in enumerate(bundle.trials):
        seconds = (30.0, 2.0, 5.0, 2.0)[index]
        peaks = {"peak_device_bytes": 10**9, "peak_memory_bytes": 2 * 10**9}
        store.append(row(trial, at=index, seconds=seconds, **same, **peaks))
    return Predictor.of(store)


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


@pytest.mark.parametrize(
    ("name", "params"),
    [("some/opt-125m", 125e6), ("some/llama-2-7b", 7e9), ("some/a-1.5B", 1.5e9)],
)
def test_a_model_says_its_size_by_its_name(name, params, plan):
    from dataclasses import replace

    model = replace(plan().bundles[0].trials[0].model, name=name)

    assert History().params(model) == params


def test_a_larger_batch_takes_what_does_not_belong_to_the_weights_as_often(
    plan, tmp_path
):
    from dataclasses import replace

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
    assert "toy_drop on toy asks for" in line
    assert alone[0].endswith("of work for one slot")


def asks(text: str) -> Resources:
    name, _, value = text.partition(": ")
    number = value if name == "device_memory" else int(value)
    return Resources(**{name: number})


def test_bundles_that_differ_in_nothing_that_matters_have_one_cost_class(plan):
    (bundle,) = plan().bundles
    first, other = (
        bundle.part(tuple(t for t in bundle.trials if t.ratio == ratio))
        for ratio in (0.25, 0.5)
    )

    assert first.id != other.id
    assert first.cost_class is other.cost_class
    assert pickle.loads(pickle.dumps(first)).cost_class is first.cost_class
    assert bundle.cost_class is not first.cost_class
    assert replace(first, underestimated=1).cost_class is not first.cost_class
    assert replace(first, exclusive=True).cost_class is not first.cost_class


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
    assert "are like none that finished" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("8xFOO", "no device called 'FOO'"),
        ("8xH10", "Did you mean 'H100'?"),
        ("0xH100", "has 0 devices; write a count from 1"),
        ("h100", "is no cluster; write COUNTxDEVICE, like 8xH100"),
        ("8 of H100", "is no cluster"),
        ("", "is no cluster"),
        ("99999999999xH100", "write a count from 1 to 100000"),
    ],
)
def test_what_is_no_cluster_is_said_so(text, reason):
    with pytest.raises(BenchError, match=re.escape(reason)):
        parse(text)


def test_a_processor_with_four_threads_is_twice_as_fast_as_one():
    assert CPU.relative_speed(4) == pytest.approx(2 * CPU.relative_speed(1))
    assert Device(name="x").relative_speed(4) == Device(name="x").relative_speed(1)

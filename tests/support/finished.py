"""A store of finished trials that took known seconds and bytes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.planning.plan import Plan
from harness.scheduling.predictor import Predictor
from results.storage.store import open_store


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

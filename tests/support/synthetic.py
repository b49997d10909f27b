"""Stores for tests, written by the project's own writer; no number is a real one."""

import datetime as dt
import itertools
import json
import random
from pathlib import Path
from typing import Any

from results.storage.store import Store, open_store

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def row(trial: str, **columns: Any) -> dict[str, Any]:
    """One attempt with sensible columns; `attempt` is made of trial and minute."""
    minute = columns.pop("minute", 0)
    measured = columns.pop("measured", {"accuracy": 0.9})
    goals = {"perplexity": "min", "loss": "min", "accuracy": "max", "bleu4": "max"}
    whole = {
        "attempt": f"{minute:04d}-{trial}",
        "trial": trial,
        "grid": "synthetic",
        "method": "svd",
        "method_options": "{}",
        "model": "mlp",
        "model_options": "{}",
        "task": "digits",
        "task_options": "{}",
        "protocol": "p1",
        "protocol_fields": '{"split":"test"}',
        "ratio": 0.2,
        "ratio_of": "weights",
        "seed": 0,
        "dtype": "float32",
        "status": "ok",
        "started_at": NOON + dt.timedelta(minutes=minute),
        "seconds": 1.0,
        "measurements": [
            {"metric": m, "value": v, "unit": "1", "goal": goals.get(m, "none")}
            for m, v in measured.items()
        ],
    }
    if columns.get("status", "ok") != "ok":
        whole["measurements"] = []
    return whole | columns


def grid(path: Path, seeds: int = 3) -> Store:
    """Dense, svd and magnitude on two models, with samples, a failure and a plan.

    An accuracy falls with the ratio, a perplexity grows; svd is better than magnitude.
    """
    store = open_store(path, create=True)
    planned = []
    draw = random.Random(0)
    points = itertools.product(
        ("dense", "svd", "magnitude"), (0.0, 0.2, 0.4, 0.6), range(seeds)
    )
    for (method, ratio, seed), (model, task) in itertools.product(
        points, (("mlp", "digits"), ("smollm2-135m", "pydoc-512"))
    ):
        if (method == "dense") != (ratio == 0):
            continue
        if model != "mlp" and seed:
            continue
        trial = f"{model}-{method}-{ratio}-{seed}"
        loss = ratio * (0.1 if method == "svd" else 0.3)
        right = [float(draw.random() < 0.95 - loss) for _ in range(100)]
        perplexity = 20 * (1 + 10 * loss)
        measured = (
            {"accuracy": sum(right) / 100, "latency_s": 0.01}
            if model == "mlp"
            else {"perplexity": perplexity}
        )
        failed = trial == "mlp-magnitude-0.6-0"
        made = row(
            trial,
            method=method,
            model=model,
            task=task,
            ratio=ratio,
            seed=seed,
            measured=measured,
            status="failed" if failed else "ok",
            error_class="bug" if failed else None,
            reason="ValueError: <b>no</b>" if failed else None,
            params_dense=1000,
            params=round(1000 * (1 - ratio)),
            bytes=round(4000 * (1 - ratio)),
            macs=round(900 * (1 - ratio)),
            achieved_ratio=ratio,
            versions=json.dumps({"torch": "2.13.0"}),
        )
        samples = [] if failed or model != "mlp" else [right]
        store.append(made, [{"metric": "accuracy", "values": v} for v in samples])
        planned.append(made)
    planned.append(row("mlp-svd-0.8-0", ratio=0.8))
    keys = ("grid", "trial", "method", "method_options", "model", "task")
    keys += ("task_options", "ratio", "seed")
    store.record_plan(
        [
            {"plan": "plan1", "planned_at": NOON} | {k: p[k] for k in keys}
            for p in planned
        ]
    )
    return store


def hosts(store: Store) -> Store:
    """An accuracy of one protocol, and a latency measured on two hosts."""
    for host, factor in (("alpha", 1.0), ("beta", 2.0)):
        fields = json.dumps({"batch": 1, "host": host})
        for method, time in (("dense", 8.0), ("svd", 4.0), ("magnitude", 6.0)):
            made = row(
                f"{method}-{host}",
                method=method,
                ratio=0.0 if method == "dense" else 0.5,
                task="latency",
                protocol=f"at-{host}",
                protocol_fields=fields,
                params=100 if method == "svd" else 200,
            )
            made["measurements"] = [
                {"metric": "latency", "value": time * factor, "goal": "min"}
            ]
            if (method, host) != ("magnitude", "alpha"):
                store.append(made)
    return store


def speeds(store: Store) -> Store:
    """Accuracies of three networks, of which magnitude decodes slower than dense."""
    rates = {"dense": (100.0, 50.0), "svd": (120.0, 48.0), "magnitude": (110.0, 40.0)}
    for method, (prefill, decode) in rates.items():
        options = {"method": method, "ratio": 0.0 if method == "dense" else 0.5}
        store.append(row(f"{method}-a", measured={"accuracy": 0.9}, **options))
        for task, rate in (("prefill", prefill), ("decode", decode)):
            made = row(f"{method}-{task}", task=task, **options)
            made["measurements"] = [
                {"metric": f"{task}_rate", "value": rate, "goal": "max"}
            ]
            store.append(made)
    return store

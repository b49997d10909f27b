"""Numbers of trials for model cards; nothing is sent anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from results.errors import StoreError, unknown
from results.queries.db import ask
from results.storage.store import Store
from results.text.clean import clean
from results.text.formats import number
from results.text.labels import label, method_label

_NETWORK = (
    *("method", "method_options", "model", "model_options", "model_revision"),
    *("calibration", "ratio", "seed", "dtype"),
)
_QUERY = """
SELECT * FROM stored.newest
WHERE status = 'ok' AND trial IN (SELECT unnest($1::VARCHAR[])) ORDER BY task, trial
"""
# A fingerprint of data that came from the hub: OWNER/NAME/CONFIG@REVISION:more.
_HUB_DATA = re.compile(r"([\w.-]+/[\w.-]+)/([\w.-]+)@([0-9a-f]+):")


def finished(
    store: Store, trials: Sequence[str], *, curves: bool = False
) -> list[dict[str, Any]]:
    """The rows of finished trials, with their final numbers in ``measurements``.

    Args:
        store: Where the trials were run.
        trials: Whole ids.
        curves: Whether to keep the numbers of single steps as well.

    Returns:
        One row for each trial, ordered by task.

    Raises:
        StoreError: If one of them is not finished.
    """
    rows = ask(store, _QUERY, [list(trials)]).dicts()
    missing = set(trials) - {row["trial"] for row in rows}
    if missing:
        raise StoreError(
            f"trial {sorted(missing)[0]} has not ended well, so it has no numbers; "
            "`shrinkgrid show` shows why"
        )
    for row in rows:
        row["measurements"] = [
            one for one in row["measurements"] or () if curves or one["step"] is None
        ]
    return rows


def network(row: Mapping[str, Any]) -> str:
    """What was compressed, and how, in one line."""
    compressed = f"{label(row['model'], row['model_options'])}, {method_label(row)}"
    return clean(f"{compressed}, ratio {number(row['ratio'])}, seed {row['seed']}")


def model_index(
    rows: Sequence[Mapping[str, Any]], kind: Callable[[str], str]
) -> dict[str, Any]:
    """The numbers of one network as the ``model-index`` of a model card.

    The format is that of ``modelcard.md`` in huggingface/hub-docs.

    Args:
        rows: Of ``finished``; tasks that measured the same network.
        kind: Task -> its type on the hub, ``text-generation`` for example.

    Returns:
        A mapping with the key ``model-index``, for the front matter of the card.

    Raises:
        StoreError: If the trials are of several networks.
    """
    networks = {tuple(row[key] for key in _NETWORK) for row in rows}
    if len(networks) > 1:
        raise StoreError(
            f"these trials are of {len(networks)} networks, and a model card describes "
            "one: name trials of one model, method, ratio and seed"
        )
    results = [
        {
            "task": {"type": kind(row["task"]), "name": _task(row)},
            "dataset": _dataset(row),
            "metrics": [
                {"type": clean(m["metric"]), "value": m["value"], "name": _named(m)}
                for m in row["measurements"]
            ],
        }
        for row in rows
    ]
    return {"model-index": [{"name": network(rows[0]), "results": results}]}


def eval_results(
    row: Mapping[str, Any],
    *,
    dataset: str,
    task_id: str,
    metric: str | None = None,
    url: str | None = None,
) -> list[dict[str, Any]]:
    """One number as an entry of ``.eval_results/NAME.yaml`` in a model repository.

    The format is that of the page "Evaluation Results" of the documentation of the hub.

    Args:
        row: Of ``finished``.
        dataset: Benchmark data set on the hub, ``cais/hle`` for example. Only a person
            knows whether the trial's protocol is that of the benchmark.
        task_id: Id of a task in the data set's ``eval.yaml``.
        metric: A metric of the trial; its primary metric by default.
        url: Where the numbers can be read, a report for example.

    Returns:
        A list of one entry.

    Raises:
        StoreError: If the trial did not measure the metric.
    """
    measured = {one["metric"]: one for one in row["measurements"]}
    chosen = metric or next(iter(measured), "")
    if chosen not in measured:
        raise unknown(f"metric of trial {row['trial']}", chosen, measured)
    entry: dict[str, Any] = {
        "dataset": {"id": dataset, "task_id": task_id},
        "value": measured[chosen]["value"],
        "date": row["started_at"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        "notes": f"{network(row)}; {_task(row)}, {_named(measured[chosen])}; "
        f"shrinkgrid trial {row['trial']}",
    }
    if url is not None:
        entry["source"] = {"url": url, "name": "shrinkgrid"}
    return [entry]


def as_yaml(value: Any) -> str:
    """YAML for a file of another program, in the order of the keys."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)


def _task(row: Mapping[str, Any]) -> str:
    return clean(label(row["task"], row["task_options"]))


def _dataset(row: Mapping[str, Any]) -> dict[str, str]:
    """The data of a task: its id on the hub where it has one, else the task's name."""
    found = _HUB_DATA.match(row["data_fingerprint"] or "")
    if found is None:
        return {"type": clean(row["task"]), "name": _task(row)}
    dataset, config, revision = found.groups()
    return {
        "type": dataset,
        "name": _task(row),
        "config": config,
        "revision": revision,
    }


def _named(measured: Mapping[str, Any]) -> str:
    """A metric with how sure its number is."""
    parts = []
    if measured["stderr"] is not None:
        parts.append(f"standard error {number(measured['stderr'])}")
    if measured["n"] is not None:
        parts.append(f"n = {measured['n']}")
    more = f" ({', '.join(parts)})" if parts else ""
    return clean(measured["metric"]) + more

"""Why a trial will run or will not: the first field that differs from a stored one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.core import BenchError
from results.outcomes import FINISHED, Status
from results.queries.db import ask
from results.storage.store import Store
from results.text import json_reader


def explain(trial: str, grid: str | None, store: Store) -> Iterator[str]:
    """Say what is known of a trial, line by line.

    Args:
        trial: Its id, or the beginning of it.
        grid: Path or name of the grid to find it in; None looks in the store.
        store: Has the attempts, and the plans of earlier runs.

    Yields:
        Lines of text.

    Raises:
        BenchError: If no trial, or more than one, begins so.
    """
    planned = _planned(store) if grid is None else _in_grid(grid)
    ids = sorted(t for t in planned if t.startswith(trial))
    if len(ids) != 1:
        raise BenchError(_which(trial, ids, grid))
    identity, unsupported = planned[ids[0]]
    yield f"trial {ids[0]}: {_name(identity)}"
    if unsupported:
        yield f"it will not run: {unsupported}"
        return
    # Every attempt in time order; ``newest`` would hide the failures before it.
    rows = ask(
        store,
        "SELECT status, reason, started_at, host FROM trials WHERE trial = ? "
        "ORDER BY started_at",
        [ids[0]],
    ).dicts()
    for row in rows:
        reason = f": {row['reason']}" if row["reason"] else ""
        moment = row["started_at"]
        started = f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "at an unknown time"
        yield f"  {started} {row['status']}{reason}"
    if rows:
        # As in the view ``newest``: a finished attempt counts, even if a failed one is
        # later.
        counts = next((r for r in reversed(rows) if r["status"] in FINISHED), rows[-1])
        yield Status.of(counts["status"]).meaning
        return
    yield "it will run: the store has no attempt of it"
    yield from _difference(identity, store)


def _which(trial: str, ids: list[str], grid: str | None) -> str:
    if ids:
        return f"{len(ids)} trials begin with {trial!r}: {', '.join(ids[:5])} ..."
    if grid is not None:
        return (
            f"no trial of {grid} begins with {trial!r}; `shrinkgrid plan {grid} "
            "--json` prints its ids"
        )
    return (
        f"no trial begins with {trial!r} in the store's plans; "
        "`shrinkgrid plan GRID --json` prints ids, --grid GRID looks there"
    )


def _planned(store: Store) -> dict[str, tuple[dict[str, Any], str | None]]:
    rows = ask(
        store,
        "SELECT trial, any_value(identity) AS identity, "
        "any_value(unsupported) AS unsupported FROM "
        "(SELECT trial, identity, unsupported FROM plans "
        "UNION ALL SELECT trial, identity, NULL FROM trials) "
        "WHERE trial IS NOT NULL GROUP BY trial",
    ).dicts()
    return {
        r["trial"]: (json_reader.mapping(r["identity"]), r["unsupported"]) for r in rows
    }


def _in_grid(name: str) -> dict[str, tuple[dict[str, Any], str | None]]:
    from harness.planning import grid as grids

    grid = grids.read(grids.locate(name))
    return {p.trial.id: (p.trial.identity(), p.unsupported) for p in grid.points()}


def _name(identity: dict[str, Any]) -> str:
    """A trial in words; a field that its stored identity lacks is a question mark."""
    named = flatten(identity)
    method, model, task = (
        named.get(f"{part}.name", "?") for part in ("method", "model", "task")
    )
    return f"{method} on {model}, {task}, ratio {named.get('ratio', '?')}"


def _difference(identity: dict[str, Any], store: Store) -> Iterator[str]:
    """The stored trial that agrees in most fields, and the first that differs."""
    wanted = flatten(identity)
    rows = ask(
        store, "SELECT DISTINCT trial, identity FROM newest WHERE status = 'ok'"
    ).dicts()
    best: tuple[int, str, dict[str, Any]] | None = None
    for row in rows:
        stored = flatten(json_reader.mapping(row["identity"]))
        # The number of equal fields is a crude distance, which is enough to find the
        # trial that differs in one option or in a version.
        equal = sum(wanted.get(k) == v for k, v in stored.items())
        if best is None or equal > best[0]:
            best = (equal, row["trial"], stored)
    if best is None:
        yield "the store has no finished trial to compare it with"
        return
    _, nearest, stored = best
    # In the order of ``Trial.identity``, which puts the method first.
    for field in [*wanted, *(k for k in stored if k not in wanted)]:
        if wanted.get(field) != stored.get(field):
            there, here = (f.get(field, "nothing") for f in (stored, wanted))
            yield (
                f"nearest finished trial {nearest} differs in {field}: "
                f"{there} there, {here} here"
            )
            return


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested JSON as dotted names.

    >>> flatten({"model": [{"name": "a", "options": {"k": 1}}], "ratio": 0.2})
    {'model.name': 'a', 'model.options.k': 1, 'ratio': 0.2}
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return found

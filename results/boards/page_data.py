"""Answers to the requests of the page, from a store: what each view shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from results.boards import mean_ranks, ranking, trial_page
from results.boards.ranking import rounded
from results.boards.running_now import running_now
from results.boards.timeline import timeline
from results.boards.trial_page import rounded_all
from results.queries import grids, left_out
from results.queries.db import ask
from results.storage.store import Store
from results.tables import published
from results.tables.catalogue import cost
from results.tables.cells import Cell
from results.tables.paper import Table, models_of, paper_table, scores
from results.text.clean import clean
from results.text.labels import label

_MOST_FAILURES = 500
_TOTALS = """
SELECT count(*) AS trials, count(*) FILTER (status = 'ok') AS ok,
       count(*) FILTER (status = 'unsupported') AS unsupported,
       count(*) FILTER (status NOT IN ('ok', 'unsupported')) AS failed,
       sum(seconds) AS seconds, max(started_at) AS newest
FROM newest
"""
# The newest plan of each grid says what is wanted of it now.
_GRIDS = """
WITH wanted AS (
    SELECT grid, trial, unsupported, planned_at FROM plans
    QUALIFY plan = first_value(plan) OVER (
        PARTITION BY grid ORDER BY planned_at DESC NULLS LAST, plan DESC)
)
SELECT w.grid, count(*) AS planned,
       count(*) FILTER (n.status = 'ok') AS ok,
       count(*) FILTER (coalesce(n.status, '') <> 'ok' AND
                        (w.unsupported IS NOT NULL OR n.status = 'unsupported'))
           AS unsupported,
       count(*) FILTER (w.unsupported IS NULL AND
                        n.status NOT IN ('ok', 'unsupported', 'cancelled', 'lost'))
           AS failed,
       sum(n.seconds) AS seconds, min(w.planned_at) AS planned_at,
       max(n.started_at) AS newest
FROM wanted AS w LEFT JOIN newest AS n USING (trial)
GROUP BY w.grid ORDER BY planned_at DESC NULLS LAST, w.grid
"""
_FAILURES = f"""
SELECT f.trial, f.status, f.error_class, f.reason, f.method, f.model, f.task, f.ratio,
       f.seed, f.tries, f.host, f.started_at, n.grid
FROM failures AS f JOIN newest AS n USING (trial)
ORDER BY f.started_at DESC, f.trial LIMIT {_MOST_FAILURES}
"""
_ENVIRONMENTS = """
SELECT host, device, threads, dtype, "commit", dirty, count(*) AS trials,
       count(DISTINCT versions) AS environments, min(started_at) AS first,
       max(started_at) AS last
FROM newest GROUP BY ALL ORDER BY trials DESC LIMIT 100
"""
_COVERAGE = """
SELECT p.grid, p.model, p.task, p.method, p.method_options, p.ratio,
       count(*) AS planned,
       count(*) FILTER (n.status = 'ok') AS ok,
       count(*) FILTER (n.status NOT IN ('ok', 'unsupported')) AS failed,
       count(*) FILTER (n.status = 'unsupported' OR p.unsupported IS NOT NULL)
           AS unsupported,
       any_value(coalesce(p.unsupported, n.reason)) AS reason,
       list(p.trial ORDER BY p.seed) AS trials
FROM (SELECT DISTINCT ON (trial) * FROM plans) AS p LEFT JOIN newest AS n USING (trial)
GROUP BY ALL ORDER BY ALL
"""
_TRIALS = "SELECT trial FROM newest ORDER BY status = 'ok', started_at DESC, trial"


def overview(store: Store) -> dict[str, Any]:
    """Progress of each grid, what runs, failures, and what computed the rows."""
    (totals,) = _rows(store, _TOTALS)
    return {
        "store": clean(store.uri),
        "version": version("shrinkgrid"),
        "totals": totals,
        "grids": _rows(store, _GRIDS),
        "failures": _rows(store, _FAILURES),
        "environments": _rows(store, _ENVIRONMENTS),
        "left_out": left_out.numbers(store),
        "running": running_now(store),
    }


def _rows(store: Store, sql: str) -> list[dict[str, Any]]:
    rows = ask(store, sql).dicts()
    return [{key: rounded_all(value) for key, value in row.items()} for row in rows]


def coverage(store: Store) -> list[dict[str, Any]]:
    """What was planned per model, task, method and ratio, and what became of it."""
    rows = _rows(store, _COVERAGE)
    for row in rows:
        row["method"] = clean(label(row["method"], row.pop("method_options")))
    return rows


def papers(store: Store) -> dict[str, Any]:
    """Tables of papers with a measured number, and the names of the others."""
    # The store is read once for all tables.
    tables = [published.read(name) for name in published.names()]
    known = scores(store, {model for table in tables for model in models_of(table)})
    made: dict[str, Any] = {"tables": {}, "others": []}
    for paper in tables:
        table = paper_table(store, paper, known=known)
        if any(cell.measured is not None for row in table.rows for cell in row.cells):
            made["tables"][paper.name] = _paper(table, paper)
        else:
            made["others"].append(paper.name)
    return made


def _paper(table: Table, paper: published.PaperTable) -> dict[str, Any]:
    rows = [
        {
            "labels": [clean(text) for text in row.labels],
            "cells": [_paper_cell(cell) for cell in row.cells],
        }
        for row in table.rows
    ]
    return {
        "title": clean(table.title),
        "link": paper.link,
        "grids": list(paper.grids),
        "cost": cost(paper.grids),
        "labels": table.labels,
        "columns": table.columns,
        "rows": rows,
        "verdicts": {name: n for name, n in table.verdicts().items() if n},
        "warnings": [clean(text) for text in table.warnings],
        "notes": [clean(text) for text in table.notes],
    }


def _paper_cell(cell: Cell) -> dict[str, Any]:
    return {
        "published": cell.published,
        "text": cell.text,
        "verdict": cell.verdict,
        "reason": clean(cell.reason),
        "place": cell.rank,
        "like_best": cell.like_best,
        "low": rounded(cell.low),
        "high": rounded(cell.high),
        "seeds": cell.seeds,
        "attempts": len(cell.attempts),
    }


_VIEWS: Mapping[str, Callable[[Store], Any]] = {
    "overview": overview,
    "boards": ranking.boards,
    "coverage": coverage,
    "papers": papers,
    "ranks": mean_ranks.diagrams,
}


def answer(store: Store, request: str) -> Any:
    """Answer one request of the page.

    Args:
        store: Where the trials are.
        request: The name of a view, ``trial/ID`` or ``timeline/GRID``.

    Returns:
        Lists and mappings that can be written as JSON; None if no view, trial or grid
        has this name.
    """
    if request.startswith("timeline/"):
        return timeline(store, request.removeprefix("timeline/"))
    if request.startswith("trial/"):
        trial = request.removeprefix("trial/")
        return trial_page.trials(store, [trial]).get(trial)
    view = _VIEWS.get(request)
    return None if view is None else view(store)


def everything(store: Store, most_trials: int) -> dict[str, Any]:
    """Answer all requests of the page at once.

    Args:
        store: Where the trials are.
        most_trials: The page of a trial is included for this many trials: failed ones
            first, then the newest.

    Returns:
        Request -> answer.
    """
    left_out.warn(store)
    trials = [t for (t,) in ask(store, _TRIALS).rows[:most_trials]]
    pages = trial_page.trials(store, trials)
    made = {name: view(store) for name, view in _VIEWS.items()}
    made |= {f"timeline/{name}": timeline(store, name) for name in grids.names(store)}
    return made | {f"trial/{trial}": page for trial, page in pages.items()}

"""The packaged tables of papers: what is planned and measured, and what it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from results.storage.store import Store
from results.tables import published
from results.tables.paper import models_of, paper_table, scores

# What a narrow terminal leaves out, first one first.
DROPPED = ("in", "paper", "hours_high", "what")


def catalogue(store: Store) -> list[dict[str, Any]]:
    """List the tables.

    Args:
        store: Whose numbers count as measured.

    Returns:
        One row per table: ``table`` (its name), ``paper``, ``in`` (its number there),
        ``what`` it shows, ``cells`` with a published number, those that are
        ``planned`` by a packaged grid and those ``measured`` in the store, ``grids``,
        and what these take as a whole: ``hours`` (and ``hours_high``, where their
        interval ends) of ``gpus``; None where no grid plans a cell. Where a grid has
        no forecast, ``gpus`` says so.
    """
    tables = [published.read(name) for name in published.names()]
    # The store is read once for all tables.
    known = scores(store, {model for table in tables for model in models_of(table)})
    return [_row(store, table, known) for table in tables]


def _row(
    store: Store, table: published.PaperTable, known: list[dict[str, Any]]
) -> dict[str, Any]:
    reasons = [why for _, why in table.printed()]
    filled = paper_table(store, table, known=known)
    cells = [cell for row in filled.rows for cell in row.cells]
    return {
        "table": table.name,
        "paper": table.paper,
        "in": table.table,
        "what": table.title,
        "cells": len(reasons),
        # The others have a reason, which `table` prints.
        "planned": reasons.count(None),
        "measured": sum(
            c.published is not None and c.measured is not None for c in cells
        ),
        "grids": ", ".join(table.grids),
        **cost(table.grids),
    }


def cost(grids: Sequence[str]) -> dict[str, Any]:
    """What several packaged grids take, one after the other.

    Args:
        grids: Names of grids that a table of a paper names.

    Returns:
        ``hours``, ``hours_high`` and ``gpus``, as in ``catalogue``.
    """
    known = [_forecasts()[name] for name in grids]
    if not known or any("why" in one for one in known):
        gpus = "no forecast" if known else None
        return {"hours": None, "hours_high": None, "gpus": gpus}
    middles, highs = ([one["hours"][i] for one in known] for i in (1, 2))
    return {
        "hours": round(sum(middles), 2),
        "hours_high": round(sum(highs), 2),
        "gpus": ", ".join(dict.fromkeys(one["gpus"] for one in known)),
    }


@cache
def _forecasts() -> dict[str, dict[str, Any]]:
    """Grid -> its forecast; ``benchmarks/forecasts.py`` writes the file."""
    text = (files("results") / "papers" / "forecasts.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found

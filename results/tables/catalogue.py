"""The packaged tables of papers: how many of their cells are planned and measured."""

from __future__ import annotations

from typing import Any

from results.storage.store import Store
from results.tables import published
from results.tables.paper import models_of, paper_table, scores

# What a narrow terminal leaves out, first one first.
DROPPED = ("in", "paper", "what")


def catalogue(store: Store) -> list[dict[str, Any]]:
    """List the tables.

    Args:
        store: Whose numbers count as measured.

    Returns:
        One row per table: ``table`` (its name), ``paper``, ``in`` (its number there),
        ``what`` it shows, ``cells`` with a published number, those that are
        ``planned`` by a packaged grid and those ``measured`` in the store, and
        ``grids``.
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
    }

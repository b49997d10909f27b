"""What is left of each layer of a network, as data for a map of its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.queries.db import ask
from results.storage.store import Store
from results.text.clean import clean

# The experts of a block are one cell of the map: their sizes are added up.
_LAYERS = """
SELECT attempt, block, CASE WHEN block IS NULL THEN layer ELSE role END AS name,
       count(*) AS layers, avg(rank) AS rank,
       sum(params) / sum(params_dense) AS kept,
       1 - sum(nonzero) / nullif(sum(params), 0) AS sparsity,
       8 * sum(bytes) / sum(params_dense) AS bits
FROM layers WHERE attempt IN (SELECT unnest($1::VARCHAR[]))
GROUP BY attempt, block, name ORDER BY attempt, min(position)
"""
MEASURES = ("rank", "kept", "sparsity", "bits")


def maps(store: Store, attempts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The maps of the networks of some attempts.

    Args:
        store: Where the attempts are.
        attempts: Their ids.

    Returns:
        Attempt -> lists of equal length, in the order of the network: ``name`` (the
        role of a layer of a block, else its path), ``block`` (None outside of blocks),
        ``layers`` (how many the entry adds up: the experts of a block), and
        ``MEASURES``. A measure that no layer has is None: rank without factors,
        sparsity without zeros. Attempts without stored layers are left out.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in ask(store, _LAYERS, [list(attempts)]).dicts():
        found.setdefault(row["attempt"], []).append(row)
    return {attempt: _map(rows) for attempt, rows in found.items()}


def _map(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": [clean(row["name"] or "?") for row in rows],
        "block": [row["block"] for row in rows],
        "layers": [row["layers"] for row in rows],
    }
    for measure in MEASURES:
        values = [_short(row[measure]) for row in rows]
        made[measure] = values if any(values) else None
    return made


def _short(value: float | None) -> float | None:
    """Four significant digits: a report holds the maps of thousands of trials."""
    return None if value is None else float(f"{value:.4g}")


def summary(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a role of a language model, else one a layer.

    Args:
        found: A map.

    Returns:
        Rows with ``name``, ``layers`` and, of each measure that the map has, the
        smallest and the largest value.
    """
    places: dict[str, list[int]] = {}
    for i, name in enumerate(found["name"]):
        places.setdefault(name, []).append(i)
    rows = []
    for name, own in places.items():
        row = {"name": name, "layers": sum(found["layers"][i] for i in own)}
        for measure in MEASURES:
            values = [found[measure][i] for i in own] if found[measure] else []
            known = [value for value in values if value is not None]
            row[measure] = (min(known), max(known)) if known else None
        rows.append(row)
    return rows

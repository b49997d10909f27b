"""Tells a reader of numbers which stored ones no ranking uses."""

from __future__ import annotations

from typing import Any

from results.queries.db import ask
from results.queries.reading import reading
from results.storage.store import Store

_NAMED = 3  # models that the warning names


def numbers(store: Store) -> int:
    """How many stored numbers no ranking uses.

    Args:
        store: The store.

    Returns:
        The number of rows of the view ``left_out``.
    """
    # The view takes long, and is empty if all rows were checked when written.
    unchecked = "SELECT 1 FROM trials WHERE status = 'ok' AND checked IS NOT true"
    if not ask(store, f"{unchecked} LIMIT 1").rows:
        return 0
    return int(ask(store, "SELECT count(*) FROM left_out").rows[0][0])


def _counts(store: Store) -> list[tuple[Any, ...]]:
    """(1, reason, numbers) of ``left_out``; (0, model, trials) of ``superseded``."""
    found = ask(
        store, "SELECT 0, model, count(*) FROM superseded GROUP BY model ORDER BY ALL"
    ).rows
    if not numbers(store):
        return list(found)
    bad = "SELECT 1, reason, count(*) FROM left_out GROUP BY ALL ORDER BY ALL"
    return [*found, *ask(store, bad).rows]


def warn(store: Store) -> None:
    """Adds warnings to a store that has rows in ``left_out`` or in ``superseded``.

    Args:
        store: The store; a warning that it has already is not repeated.
    """
    counts = reading(store, _counts)
    warnings = []
    if listed := [f"{count} {reason}" for bad, reason, count in counts if bad]:
        warnings.append(
            f"stored numbers that are left out of rankings and tables: "
            f'{", ".join(listed)}; `shrinkgrid sql "FROM left_out"` lists them'
        )
    if listed := [f"{count} of {model}" for bad, model, count in counts if not bad]:
        more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        warnings.append(
            "finished trials that newer ones replace, since the model's weights or a "
            f"plugin's version changed: {', '.join(listed[:_NAMED])}{more}; rankings "
            'and tables leave them out, and `shrinkgrid sql "FROM superseded"` lists '
            "them"
        )
    store.warnings += [one for one in warnings if one not in store.warnings]

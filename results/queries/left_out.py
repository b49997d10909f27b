"""Tells a reader of numbers which stored ones no ranking uses."""

from __future__ import annotations

from results.queries.db import ask
from results.storage.store import Store


def warn(store: Store) -> None:
    """Adds a warning to a store that has numbers in the view ``left_out``.

    Args:
        store: The store; a warning that it has already is not repeated.
    """
    counts = ask(
        store,
        "SELECT reason, count(*) FROM left_out GROUP BY reason ORDER BY reason",
        through="25_left_out",
    ).rows
    if counts:
        listed = ", ".join(f"{count} {reason}" for reason, count in counts)
        warning = (
            f"stored numbers that are left out of rankings and tables: {listed}; "
            '`shrinkgrid sql "FROM left_out"` lists them'
        )
        if warning not in store.warnings:
            store.warnings.append(warning)

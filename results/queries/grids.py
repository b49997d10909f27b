"""The grids whose plans a store has, and what is done of each."""

from __future__ import annotations

from results.errors import StoreError, suggestion
from results.queries.db import ask
from results.storage.store import Store

# Trials of the newest plan of a grid.
NEWEST_PLAN = """
SELECT * FROM plans
WHERE plan = (SELECT arg_max(plan, planned_at) FROM plans WHERE grid = ?)
"""


def names(store: Store) -> list[str]:
    """Names of the grids that were run into a store."""
    query = "SELECT DISTINCT grid FROM plans WHERE grid IS NOT NULL ORDER BY grid"
    return [str(name) for (name,) in ask(store, query).rows]


def unknown(store: Store, name: str, packaged: list[str]) -> StoreError:
    """The error for a name that is neither a grid of the store nor a packaged one."""
    known = names(store)
    near = suggestion(name, [*known, *packaged])
    hint = f" Did you mean {near!r}?" if near else ""
    more = f" Packaged: {', '.join(packaged)}. Or give the path of a grid file."
    return StoreError(
        f"no grid called {name!r}.{hint} In {store.uri}: "
        f"{', '.join(known) or 'none'}.{more if packaged else ''}"
    )


def trials(store: Store, name: str) -> set[str]:
    """Ids of the trials in the newest plan of a grid."""
    query = f"SELECT DISTINCT trial FROM ({NEWEST_PLAN})"
    return {str(trial) for (trial,) in ask(store, query, [name]).rows}


def statuses(store: Store, name: str) -> dict[str, str | None]:
    """Trial -> its status by the newest plan of a grid, None if it was never run."""
    query = (
        "SELECT trial, CASE WHEN p.unsupported IS NULL THEN n.status "
        f"ELSE 'unsupported' END FROM ({NEWEST_PLAN}) AS p LEFT JOIN newest AS n "
        "USING (trial)"
    )
    return dict(ask(store, query, [name]).rows)

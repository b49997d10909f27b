"""The grids whose plans a store has, and what is done of each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from results.errors import StoreError, suggestion
from results.outcomes import REPEATED
from results.queries.db import ask
from results.storage.store import Store
from results.text.answer import Answer

# Trials of the newest plan of a grid: all of the grid, whatever the run selected.
NEWEST_PLAN = """
SELECT * FROM plans
WHERE plan = (SELECT arg_max(plan, planned_at) FROM plans WHERE grid = ?)
"""

# Any run repeats trials with these statuses, so that they count as missing.
_AGAIN = ", ".join(f"'{status}'" for status in sorted(REPEATED))
_OPEN = f"(status IS NULL OR status IN ({_AGAIN}))"
# One row a grid: its newest plan, with the trials that run now ($1).
_OVERVIEW = f"""
WITH p AS (
  SELECT * FROM plans SEMI JOIN
    (SELECT arg_max(plan, planned_at) AS plan FROM plans GROUP BY grid) USING (plan)
), t AS (
  SELECT p.*, n.status, p.trial IN (SELECT unnest($1::VARCHAR[])) AS runs
  FROM p LEFT JOIN newest AS n USING (trial)
)
SELECT grid, strftime(max(planned_at), '%Y-%m-%d %H:%M') AS planned_at,
       count(*) AS trials,
       count(*) FILTER (unsupported IS NULL AND status = 'ok') AS done,
       count(*) FILTER (unsupported IS NULL AND {_OPEN} AND runs) AS running,
       count(*) FILTER (unsupported IS NULL AND NOT {_OPEN}
                        AND status NOT IN ('ok', 'unsupported')) AS failed,
       count(*) FILTER (unsupported IS NULL AND {_OPEN} AND NOT runs) AS missing,
       count(*) FILTER (unsupported IS NOT NULL
                        OR status = 'unsupported') AS unsupported
FROM t GROUP BY grid ORDER BY max(planned_at) DESC, grid
"""


def overview(store: Store, running: Collection[str] = ()) -> Answer:
    """How complete each grid of a store is, by its newest plan.

    Args:
        store: Where the grids were run.
        running: Ids of the trials that run now.

    Returns:
        One row a grid, the newest first: ``grid``, ``planned_at`` (UTC), ``trials``,
        ``done``, ``running``, ``failed``, ``missing`` and ``unsupported``.
    """
    return ask(store, _OVERVIEW, [sorted(running)])


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


def only(store: Store, name: str) -> Store:
    """The same store, of which queries see one grid only.

    Args:
        store: Where the grid was run.
        name: Name of the grid.

    Returns:
        The store with the trials of every plan of the grid, whichever run computed
        them, and the dense trials of the grid's models and tasks, without which no
        recovery is known.

    Raises:
        StoreError: If the grid was not run into this store.
    """
    if name not in names(store):
        raise unknown(store, name, [])
    return replace(store, grid=name)


def trials(store: Store, name: str) -> set[str]:
    """Ids of the trials in the newest plan of a grid."""
    query = f"SELECT DISTINCT trial FROM ({NEWEST_PLAN})"
    return {str(trial) for (trial,) in ask(store, query, [name]).rows}


def selected(store: Store, name: str) -> int | None:
    """How many trials the last run of a grid selected; None if it selected all."""
    query = (
        f"SELECT count(*) FILTER (selected IS NOT FALSE), count(*) FROM ({NEWEST_PLAN})"
    )
    ((some, whole),) = ask(store, query, [name]).rows
    return None if some == whole else int(some)


def statuses(store: Store, name: str) -> dict[str, str | None]:
    """Trial -> its status by the newest plan of a grid, None if it was never run."""
    query = (
        "SELECT trial, CASE WHEN p.unsupported IS NULL THEN n.status "
        f"ELSE 'unsupported' END FROM ({NEWEST_PLAN}) AS p LEFT JOIN newest AS n "
        "USING (trial)"
    )
    return dict(ask(store, query, [name]).rows)

"""Every published number beside the measured one, as rows for SQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from results.queries.databases import COMPARISON, Connection
from results.storage.store import Store
from results.tables import published
from results.tables.cells import number
from results.tables.paper import models_of, paper_table, scores


def fill(connection: Connection, store: Store) -> None:
    """Inserts every published number, with what the store measured, for the views.

    Args:
        connection: Has the empty table ``stored.comparison``.
        store: Whose trials to compare with.
    """
    import pyarrow as pa

    # Names in the order of ``COMPARISON``, which ``rows`` follows.
    columns = [line.split()[0] for line in COMPARISON.strip().split(",")]
    values = zip(*rows(store), strict=True)
    table = pa.table(dict(zip(columns, map(list, values), strict=True)))
    connection.register("arrow_rows", table)
    connection.execute("INSERT INTO stored.comparison FROM arrow_rows")
    connection.unregister("arrow_rows")


def rows(store: Store) -> Iterator[tuple[Any, ...]]:
    """Rows of the view ``comparison``, of all packaged tables.

    Args:
        store: Whose trials to compare with.

    Yields:
        One tuple a printed number.
    """
    tables = [published.read(name) for name in published.names()]
    # The store is read once for all tables.
    known = scores(store, {model for table in tables for model in models_of(table)})
    for table in tables:
        made = paper_table(store, table, known=known)
        # The made table is sorted with the dense rows first; rows are found again by
        # identity.
        filled = {id(row.given): row for row in made.rows}
        for row in table.rows:
            cells = filled[id(row)].cells
            for column, cell in zip(table.columns, cells, strict=True):
                if cell.published is None:
                    continue
                wanted = {**row, **column}
                said = (wanted.get(k) for k in ("method", "model", "ratio", "task"))
                yield (
                    table.name,
                    table.paper,
                    table.sources[row.get("source", 0)],
                    row.get("label"),
                    column["name"],
                    *said,
                    wanted.get("metric") or wanted.get("column"),
                    cell.published,
                    number(cell.published),
                    cell.measured,
                    cell.low,
                    cell.high,
                    cell.seeds,
                    cell.verdict,
                    cell.reason,
                )

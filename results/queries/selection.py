"""A person's SQL condition over planned trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from results.errors import StoreError
from results.storage import encoding


def select(rows: Sequence[Mapping[str, Any]], condition: str) -> set[str]:
    """Ids of the planned trials for which a condition holds.

    Args:
        rows: In the columns of ``schema.PLANS``.
        condition: A SQL expression over those columns, ``method = 'svd'`` say.

    Returns:
        Values of ``trial``.

    Raises:
        StoreError: If it is no expression over these columns.

    >>> rows = [{"trial": "a", "ratio": 0.2}, {"trial": "b", "ratio": 0.4}]
    >>> select(rows, "ratio < 0.3")
    {'a'}
    """
    with duckdb.connect(config={"python_enable_replacements": "false"}) as connection:
        planned = encoding.table("plans", [encoding.line(row) for row in rows])
        connection.register("arrow_rows", planned)
        connection.execute("CREATE TABLE plan AS FROM arrow_rows")
        connection.unregister("arrow_rows")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            relation = connection.table("plan").filter(condition)
            return {str(trial) for (trial,) in relation.project("trial").fetchall()}
        except duckdb.Error as why:
            said = str(why).strip().partition("\n")[0]
            columns = "method, model, task, ratio, seed, method_options, task_options"
            raise StoreError(
                f"--only {condition!r}: {said}; write a condition over {columns}"
            ) from why

"""A person's SQL condition over planned trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from results.errors import StoreError
from results.queries import isolated
from results.queries.databases import SETTINGS
from results.queries.isolated import Limits
from results.queries.messages import with_hints
from results.queries.restricted import checked
from results.storage import encoding


def select(
    rows: Sequence[Mapping[str, Any]], condition: str, limits: Limits | None = None
) -> set[str]:
    """Ids of the planned trials for which a condition holds.

    Args:
        rows: Planned trials, in the columns of ``schema.PLANS``.
        condition: An SQL expression over those columns, for example
            ``method = 'svd'``.
        limits: A minute and a quarter of the machine's memory by default.

    Returns:
        Values of ``trial``.

    Raises:
        StoreError: If it is not an expression over these columns, or reaches a limit.

    >>> rows = [{"trial": "a", "ratio": 0.2}, {"trial": "b", "ratio": 0.4}]
    >>> select(rows, "ratio < 0.3")
    {'a'}
    """
    lines = [encoding.line(row) for row in rows]
    given = limits or Limits()
    return isolated.call(_select, lines, checked(condition), limits=given)


def _select(
    lines: Sequence[bytes], condition: str, settings: Mapping[str, str]
) -> set[str]:
    with duckdb.connect(config={**SETTINGS, **settings}) as connection:
        connection.register("arrow_rows", encoding.table("plans", lines))
        connection.execute("CREATE TABLE plan AS FROM arrow_rows")
        connection.unregister("arrow_rows")
        connection.execute("SET enable_progress_bar = false")
        # Locked before the person's condition is parsed: it can read the table ``plan``
        # only.
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            relation = connection.table("plan").filter(condition)
            return {str(trial) for (trial,) in relation.project("trial").fetchall()}
        except duckdb.Error as why:
            columns = "method, model, task, ratio, seed, method_options, task_options"
            raise StoreError(
                f"--only {condition!r}: {with_hints(why)}; write a condition over "
                f"{columns}, with texts in single quotes: method = 'svd'"
            ) from why

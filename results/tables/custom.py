"""Custom tables: the numbers of a store, arranged by chosen rows and columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results.errors import StoreError, unknown
from results.queries import left_out
from results.queries.protocols import differing, named
from results.queries.restricted import query
from results.storage.store import Store
from results.tables import cells as make
from results.tables import comparison
from results.tables.cells import ABSENT, NOT_RUN, Cell
from results.tables.paper import Row, Table, groups
from results.tables.significance import rank_cells
from results.text import json_reader
from results.text.formats import DASH
from results.text.labels import label

AXES = ("method", "model", "task", "ratio", "seed", "dtype", "calibration", "grid")
_WITH_OPTIONS = ("method", "model", "task")
# A cell is a mean over seeds: its trials agree in all of these.
_SAME = (
    "model",
    "model_options",
    "task",
    "task_options",
    "method",
    "method_options",
    "ratio",
    "calibration",
    "dtype",
)
Score = Mapping[str, Any]


def custom_table(
    store: Store,
    *,
    rows: Sequence[str],
    cols: Sequence[str],
    metric: str,
    where: str = "true",
    allow_mixed: bool = False,
) -> Table:
    """A table over the store: rows by columns, each cell a mean over seeds.

    Args:
        store: Where the numbers are.
        rows: Of ``AXES``, those whose values make the rows; a method, model or task
            stands with its options, as on the leaderboard.
        cols: Those whose values make the columns.
        metric: Name of the metric to show.
        where: An SQL condition on ``scores``; read-only, as in ``shrinkgrid sql``.
        allow_mixed: Whether one cell, or one column, may mix protocols.

    Returns:
        The table, dense rows first.

    Raises:
        StoreError: If a name is not known, nothing fits, protocols are mixed, or a
            cell would mix trials that are no seeds of one another.
    """
    for name in (*rows, *cols):
        if name not in AXES:
            raise unknown("column to arrange a table by", name, AXES)
    found = _scores(store, metric, where)
    if not allow_mixed:
        _refuse_mixed(found, cols)
    across = _values(found, cols)
    columns = [dict(zip(cols, values, strict=True)) for values in across]
    table = Table(
        title=f"{metric} by {', '.join(rows)} and {', '.join(cols)}",
        labels=list(rows),
        columns=[" ".join(map(_shown, values)) for values in across],
        rows=[
            _row(found, dict(zip(rows, values, strict=True)), columns)
            for values in _values(found, rows)
        ],
    )
    # False sorts first: dense rows, which have no group, come on top.
    table.rows.sort(key=lambda row: row.group is not None)  # stable
    table.notes += rank_cells(store, [row.cells for row in table.rows], groups(table))
    return table


def _scores(store: Store, metric: str, where: str) -> list[dict[str, Any]]:
    """Rows of ``scores`` with their place along each axis under the key ``at``."""
    left_out.warn(store)
    # The line break ends a comment at the end of the person's condition.
    sql = f"SELECT * FROM scores WHERE ({where}\n)"
    found = query(store, sql, fill=comparison.fill).dicts()
    if not found:
        raise StoreError(f"no trial in {store.uri} ended well and fits {where!r}")
    known = {score["metric"] for score in found}
    if metric not in known:
        raise unknown("metric", metric, known)
    return [
        score | {"at": {axis: _along(score, axis) for axis in AXES}}
        for score in found
        if score["metric"] == metric
    ]


def _along(score: Score, axis: str) -> Any:
    """A value of an axis; two settings of one method are two values."""
    if axis in _WITH_OPTIONS:
        return label(score[axis], score[f"{axis}_options"])
    if axis == "calibration" and score[axis]:
        return label("", score[axis]).strip()
    return score[axis]


def _row(
    scores: Sequence[Score], at: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]
) -> Row:
    own = [score for score in scores if _stands(score, at)]
    # Rows compete if they differ in method or seed only.
    dense = all(score["method"] == "dense" for score in own)
    rivals = [_shown(v) for axis, v in at.items() if axis not in ("method", "seed")]
    return Row(
        labels=[_shown(value) for value in at.values()],
        cells=[_cell(own, at, column) for column in columns],
        group=None if dense else " ".join(rivals),
    )


def _stands(score: Score, at: Mapping[str, Any]) -> bool:
    return all(score["at"][axis] == value for axis, value in at.items())


def _cell(
    scores: Sequence[Score], down: Mapping[str, Any], across: Mapping[str, Any]
) -> Cell:
    group = [score for score in scores if _stands(score, across)]
    if not group:
        return Cell(verdict=NOT_RUN, reason=ABSENT)
    # A mean over anything but seeds would compare what the reader cannot see.
    for name in _SAME:
        mixed = {str(score[name]) for score in group}
        if len(mixed) > 1:
            at = ", ".join(map(_shown, (*down.values(), *across.values())))
            raise StoreError(
                f"one cell ({at}) would be a mean over {name} "
                f"{', '.join(sorted(mixed))}; narrow it with --where, or put "
                f"{name.removesuffix('_options')} into --rows or --cols"
            )
    wanted = {"metric": group[0]["metric"], "goal": group[0]["goal"]}
    return make.of_trials(group, wanted)


def _refuse_mixed(scores: Sequence[Score], cols: Sequence[str]) -> None:
    """A column over several protocols compares what cannot be compared."""
    protocols: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for score in scores:
        column = (score["task"], *(score["at"][axis] for axis in cols))
        # One entry per protocol of a column: a second one is a mixture.
        fields = json_reader.mapping(score["protocol_fields"])
        protocols.setdefault(column, {})[str(score["protocol"])] = fields
    for column, found in protocols.items():
        if len(found) > 1:
            raise StoreError(
                f"task {column[0]} was measured with {len(found)} protocols, which "
                f"differ in {named(differing(found.values()))}; "
                "narrow them with --where, or say --allow-mixed"
            )


def _values(scores: Sequence[Score], axes: Sequence[str]) -> list[tuple[Any, ...]]:
    """The distinct values along some axes: numbers by size, the rest by name."""

    def order(values: tuple[Any, ...]) -> list[tuple[bool, float, str]]:
        numbers = [v if isinstance(v, int | float) else 0.0 for v in values]
        named = zip(values, numbers, strict=True)
        # One kind of key for all values: None last, numbers by size, texts (all with
        # number 0) by name.
        return [(v is None, n, str(v)) for v, n in named]

    return sorted(
        {tuple(score["at"][axis] for axis in axes) for score in scores}, key=order
    )


def _shown(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Tables of a paper, or of a YAML file, with the measured numbers beside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from results.errors import unknown
from results.queries import left_out
from results.queries.db import ask
from results.queries.messages import quoted
from results.storage.store import Store
from results.tables import cells as make
from results.tables.cells import DIFFERS, NO_CLAIM, PROTOCOL, Cell
from results.tables.published import PaperTable, model_ids
from results.tables.significance import rank_cells
from results.text.answer import Answer

_READ = """
SELECT n.trial, n.attempt, n.status, n.reason, n.method, n.method_options, n.model,
       n.model_options, n.task, n.task_options, n.protocol, n.protocol_fields,
       n.calibration, n.dtype, n.ratio, n.seed, n.params, n.achieved_params,
       n.achieved_macs, n.achieved_bytes, s.metric, s.value, s.sample_stderr, s.goal
FROM newest AS n LEFT JOIN (FROM scores WHERE model IN ({models})) AS s
     USING (attempt)
WHERE n.model IN ({models})
"""


@dataclass(slots=True, kw_only=True)
class Row:
    """One row of a table.

    Args:
        labels: Texts on the left, one for each of the table's ``labels``.
        cells: One cell per column.
        group: Rows of one group compete; the dense row is in none.
        given: The row of the paper's file, where there is one.
    """

    labels: list[str]
    cells: list[Cell]
    group: str | None = None
    given: Mapping[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class Table:
    """A table to print.

    Args:
        title: Title that says what the table shows.
        labels: Headings of the columns on the left.
        columns: Headings of the cells.
        rows: The dense row first.
        warnings: What a reader must see before the numbers.
        notes: Sources, tests, what the marks mean.
    """

    title: str
    labels: list[str]
    columns: list[str]
    rows: list[Row]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def verdicts(self) -> dict[str, int]:
        """How many cells have each verdict."""
        count = dict.fromkeys(make.VERDICTS, 0)
        for row in self.rows:
            for cell in row.cells:
                if cell.verdict != NO_CLAIM and cell.published is not None:
                    count[cell.verdict] += 1
        return count


def paper_table(
    store: Store,
    paper: PaperTable,
    *,
    substitutes: Mapping[str, str] | None = None,
    every_model: str | None = None,
    known: Sequence[Mapping[str, Any]] | None = None,
) -> Table:
    """A paper's table, measured numbers beside the published ones.

    Args:
        store: Where the numbers are.
        paper: The paper's table to fill.
        substitutes: Model of the table -> one of the store to show in its place.
        every_model: One of the store to show in place of every model.
        known: What ``scores`` gave for these models; read again where left out.

    Returns:
        The table; its warnings say if the dense row disagrees.

    Raises:
        StoreError: If a substituted model is not in the table.
    """
    table_models = models_of(paper)
    stands_for = dict(substitutes or {})
    for model in stands_for:
        if model not in table_models:
            raise unknown(f"model of {paper.name}", model, table_models)
    if every_model is not None:
        # One model of the store in place of all of them: the table then shows its
        # numbers in the paper's arrangement, and gives no verdict.
        stands_for = dict.fromkeys(table_models, every_model)
    if known is None:
        known = scores(store, table_models | set(stands_for.values()))
    labels = _labels(paper)
    rows = [_paper_row(paper, row, labels, known, stands_for) for row in paper.rows]
    # The dense row comes first, since a reader checks it first.
    rows.sort(key=lambda row: row.group is not None)  # stable: the paper's order
    title = " ".join(part for part in (paper.paper, paper.table) if part)
    table = Table(
        title=f"{title}: {paper.title}" if title else paper.title,
        labels=labels,
        columns=[str(column["name"]) for column in paper.columns],
        rows=rows,
        notes=[paper.note] if paper.note else [],
    )
    if stands_for:
        pairs = (f"{ours} stands for {theirs}" for theirs, ours in stands_for.items())
        table.warnings.append(
            f"Not the paper's models: {', '.join(sorted(pairs))}; "
            "the measured numbers are no reproduction, and no verdict is given"
        )
    _warn_of_dense(table)
    table.notes += _beside(table)
    table.notes += [f"Source: {source}" for source in paper.sources]
    table.notes += rank_cells(store, [row.cells for row in table.rows], groups(table))
    return table


def _labels(paper: PaperTable) -> list[str]:
    """Headings of the columns that name a row."""
    labels = ["method"]
    # A column of labels that are all equal would tell nothing.
    for printed, heading in (("printed_model", "model"), ("printed_data", "data")):
        if len({row.get(printed) for row in paper.rows}) > 1:
            labels.append(heading)
    if any(row.get("printed_ratio") for row in paper.rows):
        labels.append("ratio")
    return labels


def models_of(paper: PaperTable) -> set[str]:
    """The models that a table names."""
    parts = [*paper.columns, *paper.rows]
    return {str(p["model"]) for p in parts if p.get("model") is not None}


def scores(store: Store, models: Iterable[str]) -> list[dict[str, Any]]:
    """What the store holds of some models, also under their other names.

    Args:
        store: Store that contains the trials.
        models: As tables name them.

    Returns:
        One row per trial and final metric; one with ``metric`` None for a trial that
        has no number.
    """
    ids = {name for model in models for name in model_ids(model)}
    listed = ", ".join(quoted(model) for model in sorted(ids))
    if not listed:
        return []
    left_out.warn(store)
    return ask(store, _READ.format(models=listed)).dicts()


def _paper_row(
    paper: PaperTable,
    row: Mapping[str, Any],
    labels: Sequence[str],
    scores: Sequence[Mapping[str, Any]],
    stands_for: Mapping[str, str],
) -> Row:
    filled: dict[str, Cell] = {}
    for column, printed in zip(paper.columns, row["cells"], strict=True):
        if "mean_of" not in column:
            wanted = {**row, **column}
            cell = make.fill(wanted, printed, scores, substitutes=stands_for)
            excuse = paper.excuse(wanted)
            if cell.reason in (make.ABSENT, make.UNMEASURED) and excuse is not None:
                cell.reason = str(excuse["why"])
            filled[column["name"]] = cell
    # Means second: they need the cells of their own row.
    for column, printed in zip(paper.columns, row["cells"], strict=True):
        if "mean_of" in column:
            parts = [filled[name] for name in column["mean_of"]]
            filled[column["name"]] = make.average(parts, printed)
    printed_keys = {"method": "label", "model": "printed_model"}
    printed_keys |= {"data": "printed_data", "ratio": "printed_ratio"}
    dense = row.get("method") == "dense"
    # Rows compete at the same model, ratio and data.
    group = f"{row.get('model')} {row.get('ratio')} {row.get('printed_data')}"
    return Row(
        labels=[str(row.get(printed_keys[label]) or "") for label in labels],
        cells=[filled[column["name"]] for column in paper.columns],
        group=None if dense else group,
        given=row,
    )


def _beside(table: Table) -> list[str]:
    """Which rows were measured with options that the table does not state."""
    rows: dict[str, dict[str, None]] = {}
    for row in table.rows:
        for text in {cell.beside for cell in row.cells} - {""}:
            rows.setdefault(text, {})[row.labels[0]] = None
    return [f"With {text}: {', '.join(rows[text])}" for text in sorted(rows)]


def _warn_of_dense(table: Table) -> None:
    """If the dense row disagrees, nothing below it means anything; say so on top."""
    dense = [row for row in table.rows if row.group is None]
    for row in dense:
        # Verdict, and the protocol field that differs -> columns with both numbers.
        wrong: dict[str, list[str]] = {}
        for heading, cell in zip(table.columns, row.cells, strict=True):
            if cell.verdict in (DIFFERS, PROTOCOL):
                why = f"{cell.verdict}: {cell.reason}" if cell.reason else cell.verdict
                wrong.setdefault(why, []).append(
                    f"{heading} measured {cell.text}, published {cell.published}"
                )
        if wrong:
            name = f" {row.labels[0]}" if len(dense) > 1 else ""
            said = "; ".join(f"{', '.join(c)} ({why})" for why, c in wrong.items())
            table.warnings.append(
                f"The dense row{name} disagrees: {said}; the numbers below it cannot "
                "be compared"
            )


def groups(table: Table) -> list[str | None]:
    """The group of each row; rows of one group compete."""
    return [row.group for row in table.rows]


def as_answer(table: Table) -> Answer:
    """The table in long form, one row per cell, for CSV and JSON.

    Args:
        table: A paper's table or a custom table.

    Returns:
        Rows with every digit of the measured numbers.
    """
    columns = (*table.labels, "column", "published", "measured", "low", "high", "seeds")
    columns += ("verdict", "reason", "place", "like_best", "key")
    rows: list[tuple[Any, ...]] = []
    for row in table.rows:
        for heading, cell in zip(table.columns, row.cells, strict=True):
            values = (cell.published, cell.measured, cell.low, cell.high, cell.seeds)
            marks = (cell.verdict, cell.reason, cell.rank or None, cell.like_best)
            key = json.dumps(cell.key) if cell.key else None
            rows.append((*row.labels, heading, *values, *marks, key))
    return Answer(columns=columns, types=("VARCHAR",) * len(columns), rows=rows)

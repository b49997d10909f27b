"""The leaderboard for a terminal: one table a board, the dense model first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from results.boards.board_rows import (
    STAR,
    TEXTS,
    cells,
    headings,
    is_best,
    like_best,
    slower,
)
from results.boards.narrowing import named_in
from results.errors import StoreError
from results.queries import left_out
from results.queries.db import ask
from results.queries.protocols import Fields, differing, named, told_apart
from results.storage.store import Store
from results.text.answer import Answer
from results.text.columns import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    ITALIC,
    YELLOW,
    Columns,
    printable,
    styled,
    terminal_width,
)
from results.text.labels import label, shared_calibration

# Columns in the order in which a narrow terminal leaves them out:
# trained, seeds, params, of, stderr, achieved, recovery
_DROPPED = (10, 9, 8, 4, 6, 3, 7)
BOARD = ("model", "model_options", "task", "task_options", "metric", "protocol")


def read(store: Store, **only: Iterable[str]) -> Answer:
    """Rows of the view ``leaderboard``.

    Args:
        store: Where to read.
        **only: ``model``, ``task``, ``metric``, ``method`` or ``protocol`` -> the names
            to keep, as ``narrowing.named_in`` reads them; none keeps all, and of the
            metrics the one that each task measures first. The metric ``all`` keeps
            every one.

    Returns:
        The rows, dense first in each board.

    Raises:
        StoreError: If a name stands nowhere in the store, or nothing does.
    """
    left_out.warn(store)
    answer = ask(store, "FROM leaderboard")
    if not answer.rows:
        raise StoreError(
            f"the store {store.uri} has no ranked number yet; `shrinkgrid run GRID` "
            "makes some, `shrinkgrid status` says what is missing"
        )
    rows = answer.rows
    metrics = set(only.pop("metric", ()))
    if not metrics:
        main = answer.columns.index("main")
        rows = [row for row in rows if row[main]]
    if metrics - {"all"}:
        only["metric"] = metrics - {"all"}
    for column, names in only.items():
        rows = named_in(answer, rows, column, names, f"in {store.uri}")
    if not rows:
        raise StoreError("no row of the leaderboard fits all of these options")
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


def one_board(store: Store, **only: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a single model, task, metric and protocol.

    Args:
        store: Where to read.
        **only: As for ``read``.

    Returns:
        Rows of the view ``leaderboard``.

    Raises:
        StoreError: If several boards fit; the message lists what to choose from.
    """
    rows = read(store, **only).dicts()
    for column in BOARD:
        choice = column.removesuffix("_options")
        found = sorted({_called(row, column) for row in rows})
        if len(found) > 1:
            listed = ", ".join(f"'{name}'" for name in found)
            raise StoreError(
                f"{len(found)} {choice}s fit: {listed}; choose one with --{choice}"
            )
    return rows


def _called(row: Mapping[str, Any], column: str) -> str:
    """What chooses a row by one of the columns of ``BOARD``."""
    plugin = column.removesuffix("_options")
    if plugin == column:
        return str(row[column])
    return label(row[plugin], row[column])


def together(answer: Answer) -> Answer:
    """Rank the rows of all protocols of a task together.

    Args:
        answer: Rows as ``read`` returns them.

    Returns:
        The same rows by leaderboard, ranked again at each ratio.
    """
    rows = answer.dicts()
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*_board(row)[:-1], row["ratio"]), []).append(row)
    for rivals in groups.values():
        sign = -1 if rivals[0]["goal"] == "max" else 1
        for row in rivals:
            # Counts the better ones, so that ties share a place, as ``rank()`` in SQL
            # does.
            better = sum(sign * other["mean"] < sign * row["mean"] for other in rivals)
            row["place"] = 1 + better
    rows.sort(
        key=lambda r: (_board(r)[:-1], r["method"] != "dense", r["ratio"], r["place"])
    )
    return Answer(
        columns=answer.columns,
        types=answer.types,
        rows=[tuple(row.values()) for row in rows],
    )


def rival_protocols(answer: Answer) -> set[str]:
    """Protocols of the tasks and metrics that were measured in more than one."""
    found: dict[tuple[str, ...], set[str]] = {}
    for row in answer.dicts():
        found.setdefault(_board(row)[:-1], set()).add(row["protocol"])
    return {one for several in found.values() if len(several) > 1 for one in several}


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """The rows of one model, task, metric and protocol, ready to be written.

    Args:
        title: The model and the task.
        ranked: The metric, and whether more or less of it is better.
        note: In which fields protocols differ; empty where there is one.
        rows: Rows of the view ``leaderboard``.
        marks: Protocol -> what tells it from others; empty unless they are mixed.
    """

    title: str
    ranked: str
    note: str
    rows: Sequence[Mapping[str, Any]]
    marks: Mapping[str, str]

    def cells(self) -> list[list[str]]:
        """The cells of each row, in the order of ``headings``."""
        made = []
        for row in self.rows:
            mark = self.marks.get(row["protocol"])
            best = is_best(row, self.rows)
            made.append(cells(row, f" [{mark}]" if mark else "", best=best))
        return [line[: len(self.headings())] for line in made]

    def headings(self) -> list[str]:
        """The headings of the columns; the last is left out where nothing trained."""
        return headings(self.rows)


def listed(
    answer: Answer,
    protocols: Mapping[str, Fields] | None = None,
    *,
    mixed: bool = False,
) -> list[Board]:
    """One board for each model, task, metric and protocol.

    Args:
        answer: Rows as ``read`` or ``together`` gives them.
        protocols: Hash -> fields of those in it, to say in what they differ.
        mixed: Whether all protocols of a task stand on one board; the board says so,
            and each row says in what it differs.

    Returns:
        The boards.
    """
    width = len(BOARD) - mixed  # the protocol is the last

    def board(row: Mapping[str, Any]) -> tuple[str, ...]:
        return _board(row)[:width]

    rows = sorted(answer.dicts(), key=board)  # stable: the order stays inside
    known: dict[tuple[str, ...], dict[str, Fields]] = {}
    for row in rows:
        # Protocols of one model, task and metric: only these have to be told apart.
        fields = (protocols or {}).get(row["protocol"], {})
        known.setdefault(_board(row)[:-1], {})[row["protocol"]] = fields
    made = []
    for _, group in groupby(rows, key=board):
        mine = list(group)
        first = mine[0]
        own = known[_board(first)[:-1]]
        apart = told_apart(own) if len(own) > 1 else {}
        arrow = "higher is better" if first["goal"] == "max" else "lower is better"
        made.append(
            Board(
                title=printable(_title(first)),
                ranked=printable(f"{first['metric']}, {arrow}"),
                note=printable(_note(first, own, mixed=mixed)),
                rows=mine,
                marks=apart if mixed else {},
            )
        )
    return made


def boards(found: Iterable[Board], *, ruled: bool = True) -> str:
    """The boards for a terminal, one heading and one table each.

    Args:
        found: Of ``listed``.
        ruled: Whether a space parts the ratios; not in an order of another kind.

    Returns:
        Text with ANSI colours, as wide as the terminal at most.
    """
    shown = list(found)
    parts = ["\n".join(_lines(board, ruled=ruled)) for board in shown]
    rows = [row for board in shown for row in board.rows]
    for note in (like_best(rows), slower(rows), one_seed(shown)):
        if note:
            parts.append("\n".join(styled(line, DIM) for line in _wrapped(note)))
    return "\n\n".join(parts)


def _lines(board: Board, *, ruled: bool) -> Iterator[str]:
    """A board for a terminal; a calibration that all share is said once."""
    yield from _heading(board)
    if shared := shared_calibration(board.rows):
        said = _wrapped(printable(f"calibration, where a method reads it: {shared}"))
        yield from (styled(line, DIM) for line in said)
        rows = [{**row, "calibration": None} for row in board.rows]
        board = replace(board, rows=rows)
    yield str(_table(board, ruled=ruled))


def one_seed(found: Iterable[Board]) -> str:
    """What the errors of rows with one seed leave out; empty if there are none.

    Two trainings can differ by far more than the samples of one of them suggest.
    """
    rows = (row for board in found for row in board.rows)
    if not any(row["ok"] == 1 and row["stderr"] is not None for row in rows):
        return ""
    return (
        "± of a row with one seed covers the choice of the task's samples, not that of "
        "the seed (initial weights, order of the data, calibration)"
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, min(terminal_width(), 100))


def _board(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[column] or "" for column in BOARD)


def _note(
    row: Mapping[str, Any], protocols: Mapping[str, Fields], *, mixed: bool
) -> str:
    """Two numbers compare only where the protocols agree."""
    if len(protocols) < 2:
        return ""
    if mixed:
        fields = named(differing(protocols.values()))
        return f"{len(protocols)} protocols on one board, which differ in {fields}"
    where = told_apart(protocols)[row["protocol"]]
    return f"one of {len(protocols)} protocols: {row['protocol']} {where}"


def _heading(board: Board) -> list[str]:
    """What the board is of, on lines that fit the terminal."""
    ranked = styled(board.ranked, DIM)
    folded = textwrap.wrap(board.title, terminal_width(), break_on_hyphens=False)
    lines = [styled(line, BOLD, CYAN) for line in folded]
    if len(folded[-1]) + 2 + len(board.ranked) <= terminal_width():
        lines[-1] += f"  {ranked}"
    else:
        lines.append(ranked)
    return lines + [styled(line, YELLOW) for line in _wrapped(board.note)]


def _title(row: Mapping[str, Any]) -> str:
    model = label(row["model"], row["model_options"])
    return f"{model} on {label(row['task'], row['task_options'])}"


def _table(board: Board, *, ruled: bool) -> Columns:
    heads = board.headings()
    table = Columns(
        headings=heads,
        left=[i in TEXTS for i in range(len(heads))],
        dropped=[i for i in _DROPPED if i < len(heads)],
    )
    ratio = board.rows[0]["ratio"]
    for row, line in zip(board.rows, board.cells(), strict=True):
        if ruled and row["ratio"] != ratio:
            table.rule()
            ratio = row["ratio"]
        table.add(line, *_style(row, best=line[0] == STAR))
    return table


def _style(row: Mapping[str, Any], *, best: bool) -> tuple[str, ...]:
    """The dense row is italic; the best of each ratio is bold."""
    if row["method"] == "dense":
        return (ITALIC,)
    return (BOLD, GREEN) if best else ()

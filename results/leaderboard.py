"""The leaderboard for a terminal: one table a board, the dense model first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from results.db import Answer, ask
from results.errors import StoreError, unknown
from results.formats import DASH, number
from results.store import Store

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BOARD = ("model", "model_options", "task", "task_options", "metric", "protocol")
NARROWED_BY = ("model", "task", "metric", "method")


def read(store: Store, **only: Iterable[str]) -> Answer:
    """Rows of the view ``leaderboard``.

    Args:
        store: Where to read.
        **only: ``model``, ``task``, ``metric`` or ``method`` -> the names to keep;
            none keeps all.

    Returns:
        The rows, dense first in each board.

    Raises:
        StoreError: If a name stands nowhere in the store, or nothing does.
    """
    answer = ask(store, "FROM leaderboard")
    if not answer.rows:
        raise StoreError(
            f"the store {store.uri} has no ranked number yet; `shrinkgrid run GRID` "
            "makes some, `shrinkgrid status` says what is missing"
        )
    rows = answer.rows
    for column, names in only.items():
        place = answer.columns.index(column)
        known = {row[place] for row in rows}
        for name in names:
            if name not in known:
                raise unknown(f"{column} in {store.uri}", name, known)
        wanted = set(names) or known
        rows = [row for row in rows if row[place] in wanted]
    if not rows:
        raise StoreError("no row of the leaderboard fits all of these options")
    return Answer(columns=answer.columns, types=answer.types, rows=rows)


def boards(answer: Answer) -> Iterator[RenderableType]:
    """One heading and one table for each model, task, metric and protocol.

    Args:
        answer: Rows as ``read`` gives them.

    Yields:
        What rich can print, at most 100 columns wide.
    """
    from rich.text import Text

    def board(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(row[column] or "" for column in BOARD)

    rows = sorted(answer.dicts(), key=board)  # stable: the view's order stays inside
    titles = [_title(row) for row in rows]
    for _, group in groupby(rows, key=board):
        listed = list(group)
        first = listed[0]
        heading = Text(_title(first), style="bold cyan")
        arrow = "higher is better" if first["goal"] == "max" else "lower is better"
        heading.append(f"  {first['metric']}, {arrow}", style="dim")
        protocols = {
            row["protocol"]
            for row, title in zip(rows, titles, strict=True)
            if title == _title(first) and row["metric"] == first["metric"]
        }
        if len(protocols) > 1:  # two numbers compare only where these agree
            heading.append(f"  protocol {first['protocol']}", style="yellow")
        yield heading
        yield _table(listed)


def label(name: str, options: str | None) -> str:
    """A name with its options, as short as can be.

    >>> label("svd", "{}"), label("gptq", '{"bits":4,"group":[1,2]}')
    ('svd', 'gptq bits=4 group=[1,2]')
    """
    given = json.loads(options) if options else {}
    words = [f"{key}={_short(value)}" for key, value in given.items()]
    return " ".join([name, *words])


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def _title(row: Mapping[str, Any]) -> str:
    model = label(row["model"], row["model_options"])
    return f"{model} on {label(row['task'], row['task_options'])}"


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("", width=1)
    table.add_column("method", overflow="fold", min_width=14)
    for heading in ("asked", "achieved"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("of", no_wrap=True)
    for heading in (rows[0]["metric"], "± stderr", "recovery", "params", "seeds"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    ratio = rows[0]["ratio"]
    for row in rows:
        if row["ratio"] != ratio:
            table.add_section()
            ratio = row["ratio"]
        table.add_row(*_cells(row), style=_style(row, rows))
    return table


def _cells(row: Mapping[str, Any]) -> list[Any]:
    from rich.text import Text

    missing = row["ok"] < row["planned"]
    name = label(row["method"], row["method_options"])
    if row["calibration"]:
        name = label(name, row["calibration"])
    return [
        "★" if _is_best(row) else "",
        Text(name),
        f"{row['ratio']:g}",
        _or_dash(row["achieved"], "{:.3f}"),
        Text(_OF.get(row["ratio_of"], row["ratio_of"] or "")),
        number(row["mean"]),
        _or_dash(row["stderr"], "{:.2g}"),
        _or_dash(row["recovery"], "{:.1%}"),
        magnitude(row["params"]),
        Text(f"{row['ok']}/{row['planned']}", style="yellow" if missing else ""),
    ]


_OF = {"tracked_weights": "tracked", "parameters": "params", "none": ""}


def magnitude(value: float | None) -> str:
    """A count in thousands, millions, billions.

    >>> magnitude(134_515_008), magnitude(17_610), magnitude(12)
    ('134.5M', '17.6k', '12')
    """
    if value is None:
        return DASH
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def _is_best(row: Mapping[str, Any]) -> bool:
    return row["place"] == 1 and row["method"] != "dense"


def _style(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """The dense row is set apart; the best of each ratio is bold."""
    if row["method"] == "dense":
        return "italic"
    contested = sum(other["ratio"] == row["ratio"] for other in rows) > 1
    return "bold green" if _is_best(row) and contested else ""


def _or_dash(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)

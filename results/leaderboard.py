"""The leaderboard for a terminal: one table a board, the dense model first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from results.columns import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    ITALIC,
    YELLOW,
    Columns,
    printable,
    styled,
)
from results.db import Answer, ask
from results.errors import StoreError, unknown
from results.formats import DASH, number
from results.store import Store

BOARD = ("model", "model_options", "task", "task_options", "metric", "protocol")
NARROWED_BY = ("model", "task", "metric", "method")


def read(store: Store, **only: Iterable[str]) -> Answer:
    """Rows of the view ``leaderboard``.

    Args:
        store: Where to read.
        **only: ``model``, ``task``, ``metric`` or ``method`` -> the names to keep;
            none keeps all, and of the metrics the one that each task measures first.
            The metric ``all`` keeps every one.

    Returns:
        The rows, dense first in each board.

    Raises:
        StoreError: If a name stands nowhere in the store, or nothing does.
    """
    answer = ask(store, "FROM leaderboard", through="40_leaderboard")
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
        found = sorted({str(row[column]) for row in rows})
        if len(found) > 1:
            choice = column.removesuffix("_options")
            raise StoreError(
                f"{len(found)} {column}s fit ({', '.join(found)}); "
                f"choose one with --{choice if choice != 'protocol' else 'task'}"
            )
    return rows


def boards(answer: Answer) -> str:
    """One heading and one table for each model, task, metric and protocol.

    Args:
        answer: Rows as ``read`` gives them.

    Returns:
        Text with ANSI colours, at most 100 columns wide.
    """

    def board(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(row[column] or "" for column in BOARD)

    rows = sorted(answer.dicts(), key=board)  # stable: the view's order stays inside
    protocols: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        key = (_title(row), row["metric"])
        protocols.setdefault(key, set()).add(row["protocol"])
    parts = []
    for _, group in groupby(rows, key=board):
        listed = list(group)
        first = listed[0]
        several = len(protocols[_title(first), first["metric"]]) > 1
        parts.append(f"{_heading(first, several)}\n{_table(listed)}")
    return "\n\n".join(parts)


def _heading(row: Mapping[str, Any], several: bool) -> str:
    arrow = "higher is better" if row["goal"] == "max" else "lower is better"
    words = [
        styled(printable(_title(row)), BOLD, CYAN),
        styled(printable(f"{row['metric']}, {arrow}"), DIM),
    ]
    if several:  # two numbers compare only where the protocols agree
        words.append(styled(f"protocol {row['protocol']}", YELLOW))
    return "  ".join(words)


def label(name: str, options: str | None) -> str:
    """A name with its options, as short as can be.

    An option that only repeats the name (of a task of lm-eval) is left out; one that is
    a mapping (a training recipe) is told apart by four digits of its hash.

    >>> label("svd", "{}"), label("gptq", '{"bits":4,"group":[1,2]}')
    ('svd', 'gptq bits=4 group=[1,2]')
    >>> label("piqa", '{"id":"piqa","limit":3}')
    'piqa limit=3'
    >>> label("mlp", '{"recipe":{"epochs":3}}')
    'mlp recipe=#cc63'
    """
    given = json.loads(options) if options else {}
    words = [f"{k}={_short(v)}" for k, v in given.items() if v != name]
    return " ".join([name, *words])


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    if isinstance(value, Mapping):
        return f"#{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    return text


def _title(row: Mapping[str, Any]) -> str:
    model = label(row["model"], row["model_options"])
    return f"{model} on {label(row['task'], row['task_options'])}"


def _table(rows: list[dict[str, Any]]) -> Columns:
    headings = ["", "method", "asked", "achieved", "of", rows[0]["metric"]]
    headings += ["± stderr", "recovery", "params", "seeds"]
    table = Columns(headings=headings, left=[i in (0, 1, 4) for i in range(10)])
    table.width = min(table.width, 100)
    ratio = rows[0]["ratio"]
    for row in rows:
        if row["ratio"] != ratio:
            table.rule()
            ratio = row["ratio"]
        table.add(_cells(row), *_style(row, rows))
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    name = label(row["method"], row["method_options"])
    if row["calibration"]:
        name = label(name, row["calibration"])
    return [
        "★" if _is_best(row) else "",
        name,
        f"{row['ratio']:g}",
        _or_dash(row["achieved"], "{:.3f}"),
        _OF.get(row["ratio_of"], row["ratio_of"] or ""),
        number(row["mean"]),
        _or_dash(row["stderr"], "{:.2g}"),
        _or_dash(row["recovery"], "{:.1%}"),
        magnitude(row["params"]),
        f"{row['ok']}/{row['planned']}",
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


def _style(row: Mapping[str, Any], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """The dense row is set apart; the best of each ratio is bold."""
    if row["method"] == "dense":
        return (ITALIC,)
    contested = sum(other["ratio"] == row["ratio"] for other in rows) > 1
    return (BOLD, GREEN) if _is_best(row) and contested else ()


def _or_dash(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)

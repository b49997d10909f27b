"""One row of a leaderboard as texts, and whether it gets a star."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.tables import significance
from results.text.formats import DASH, number
from results.text.labels import method_label

TEXTS = (0, 1, 4)  # columns that are text: star, method, of
# A classifier of ten classes that guesses keeps a little more than a tenth of what a
# good one has, and a language model with such a perplexity writes noise.
_USELESS = 0.12
# Repeats on an idle machine differ by less than this share of the speed.
_SLOWER = 0.95
SLOWER = "▼"
STAR, LIKE_BEST = "★", "†"
_OF = {"tracked_weights": "tracked", "parameters": "params", "none": ""}


def headings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The headings of ``cells``; without the epochs where nothing trained."""
    made = ["", "method", "asked", "achieved", "of", rows[0]["metric"]]
    made += ["± stderr", "recovery", "params", "seeds"]
    return [*made, *(["epochs"] if any(r.get("trained_epochs") for r in rows) else [])]


def cells(row: Mapping[str, Any], mark: str, *, best: bool) -> list[str]:
    """The texts of one row.

    Args:
        row: A row of the view ``leaderboard``, with ``mark`` where rows were tested.
        mark: What follows the name of the method.
        best: Whether it gets a star.

    Returns:
        One text a column; the epochs of training are the last.
    """
    return [
        STAR if best else LIKE_BEST if row.get("mark") == "like best" else "",
        method_label(row) + (SLOWER if is_slower(row) else "") + mark,
        f"{row['ratio']:g}",
        _or_dash(row["achieved"], "{:.3f}") + _partly(row),
        _OF.get(row["ratio_of"], row["ratio_of"] or ""),
        number(row["mean"]),
        _or_dash(row["stderr"], "{:.2g}"),
        "at chance" if row.get("at_chance") else _or_dash(row["recovery"], "{:.1%}"),
        magnitude(row["params"]),
        f"{row['ok']}/{row['planned']}",
        _or_dash(row.get("trained_epochs"), "{:g}"),
    ]


def _partly(row: Mapping[str, Any]) -> str:
    """The share of the block weights that was treated, where it is not all of them."""
    share = row.get("coverage")
    return "" if share is None or share >= 1 else f" ({share:.1%} treated)"


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


def is_best(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a row gets a star: the first of several that is worth using.

    Args:
        row: A row of the view ``leaderboard``.
        rows: All rows of its leaderboard.

    Returns:
        False for the dense model, without another method at the same ratio, for what
        is not better than guessing, and for a recovery of at most ``_USELESS``.
    """
    if row["place"] != 1 or row["method"] == "dense":
        return False
    if row.get("at_chance"):
        return False
    if row["recovery"] is not None and row["recovery"] <= _USELESS:
        return False
    same = [r for r in rows if r["ratio"] == row["ratio"] and r["method"] != "dense"]
    return len(same) > 1


def is_slower(row: Mapping[str, Any]) -> bool:
    """Whether the network was measured to be slower than the dense one.

    Args:
        row: A row of the view ``leaderboard``.

    Returns:
        True below 95 % of the speed of the dense model.
    """
    speed = row.get("speed")
    return speed is not None and speed < _SLOWER


def like_best(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the mark of rows like the best means; empty if no row has one."""
    if all(row.get("mark") != "like best" for row in rows):
        return ""
    return significance.NOTE


def slower(rows: Iterable[Mapping[str, Any]]) -> str:
    """What the mark of slower networks means; empty if no row has one."""
    if not any(map(is_slower, rows)):
        return ""
    return (
        f"{SLOWER} slower than the dense model by more than 5 % where its speed was "
        "measured (latency, prefill or decode)"
    )


def _or_dash(value: float | None, form: str) -> str:
    return DASH if value is None else form.format(value)

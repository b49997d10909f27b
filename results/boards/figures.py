"""Figures of a board: Pareto plots and ratio curves, as SVG or PDF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from results.errors import StoreError, unknown
from results.queries.db import ask
from results.queries.protocols import stored, told_apart
from results.storage.store import Store
from results.tables.statistics import front_probability
from results.text.columns import printable
from results.text.labels import method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, told apart by every common colour blindness; shapes tell them too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
COSTS = {
    "params": "parameters",
    "params_nonzero": "non-zero parameters",
    "bytes": "bytes of the saved network",
    "macs": "multiply-accumulates of one forward pass",
    "latency": "milliseconds a batch of images",
    "prefill": "milliseconds a token read",
    "decode": "milliseconds a token written",
}
TIMES = ("latency", "prefill", "decode")  # which other tasks measure; see ``timed``
KINDS = ("pareto", "curves")
_NETWORK = (
    "model",
    "model_options",
    "method",
    "method_options",
    "calibration",
    "dtype",
    "ratio",
)
_REACH = 1.959964  # half a 95 % interval, in standard errors
Rows = Sequence[Mapping[str, Any]]


def draw(kind: str, rows: Rows, *, cost: str = "params", form: str = "svg") -> bytes:
    """A figure of one board.

    Args:
        kind: ``pareto`` (quality against a cost) or ``curves`` (recovery by ratio).
        rows: Rows of the view ``leaderboard``, of one model, task and metric.
        cost: One of ``COSTS``, for ``pareto``; a time needs the rows of ``timed``.
        form: ``svg``, ``pdf`` or ``png``.

    Returns:
        The file's content.

    Raises:
        StoreError: If nothing can be drawn.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if cost not in COSTS:
        raise unknown("cost", cost, COSTS)
    # Text stays text (to search and edit), and equal rows give equal bytes.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "shrinkgrid"}
    # A name such as "$x$" is text, not a formula.
    settings |= {"pdf.fonttype": 42, "text.parse_math": False}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        if kind == "pareto":
            _pareto(axes, rows, cost)
        else:
            _curves(axes, rows)
        _finish(figure, axes, rows)
        out = io.BytesIO()
        meta = {"Date": None} if form == "svg" else None
        figure.savefig(out, format=form, metadata=meta)
    return out.getvalue()


def timed(
    store: Store, rows: Rows, cost: str, protocol: str | None = None
) -> list[dict[str, Any]]:
    """The rows with a time of the same networks, which another task measured.

    Args:
        store: Where the times are.
        rows: Rows of the view ``leaderboard``.
        cost: One of ``TIMES``: of a batch of images, a token read, a token written.
        protocol: That of the times; needed where the store has several.

    Returns:
        The rows with milliseconds under ``cost``, None where there is no time.

    Raises:
        StoreError: If none was measured, or with several protocols; says in which
            fields they differ.
    """
    times = ask(store, "FROM times WHERE cost = ?", [cost]).dicts()
    models = {(row["model"], row["model_options"]) for row in rows}
    # Times of other models do not count as further protocols.
    times = [t for t in times if (t["model"], t["model_options"]) in models]
    known = {str(t["timed"]) for t in times}
    if protocol is not None and protocol not in known:
        raise unknown(f"protocol of {cost} in {store.uri}", protocol, known)
    if protocol is None and len(known) > 1:
        apart = told_apart(stored(store, known))
        listed = ", ".join(f"{name} ({apart[name]})" for name in sorted(apart))
        raise StoreError(
            f"{cost} was measured with {len(known)} protocols: {listed}; choose one "
            "with --timed"
        )
    found = {
        tuple(t[key] for key in _NETWORK): t["size"]
        for t in times
        if protocol in (None, t["timed"])
    }
    if not found:
        raise StoreError(f"no task measured {cost} of these models in {store.uri}")
    return [
        {**row, cost: found.get(tuple(row[key] for key in _NETWORK))} for row in rows
    ]


def probabilities(rows: Rows, cost: str) -> list[float]:
    """How probable it is that each row is on the front of quality against a cost.

    Args:
        rows: Of one board, all with a cost.
        cost: One of ``COSTS``, which every row has as a number; smaller is better.

    Returns:
        One share a row; a row without a standard error counts as exact.
    """
    if not rows:
        return []
    sign = 1.0 if rows[0]["goal"] == "max" else -1.0
    quality = [sign * row["mean"] for row in rows]
    errors = [row["stderr"] or 0.0 for row in rows]
    found = front_probability(quality, errors, [row[cost] for row in rows])
    return [float(share) for share in found]


def _pareto(axes: Axes, rows: Rows, cost: str) -> None:
    sized = [row for row in rows if row.get(cost) is not None]
    if not sized:
        raise StoreError(f"no row of this board has a measured {cost}")
    shares = probabilities(sized, cost)
    for index, name in enumerate(_methods(sized)):
        points = [
            (r, p) for r, p in zip(sized, shares, strict=True) if _name(r) == name
        ]
        axes.errorbar(
            [row[cost] for row, _ in points],
            [row["mean"] for row, _ in points],
            yerr=[_REACH * (row["stderr"] or 0.0) for row, _ in points],
            linestyle="none",
            capsize=2,
            label=name,
            **_style(index),
        )
        for row, share in points:
            if share >= 0.05:
                axes.annotate(
                    f"{share:.0%}",
                    (row[cost], row["mean"]),
                    textcoords="offset points",
                    xytext=(5, 5),
                    fontsize=7,
                )
    axes.set_xlabel(f"{COSTS[cost]} (per cent: probability to be on the front)")
    axes.set_ylabel(_quality(rows))


def _curves(axes: Axes, rows: Rows) -> None:
    known = [row for row in rows if row["recovery"] is not None]
    if not known:
        raise StoreError("no row of this board has a dense partner to compare with")
    for index, name in enumerate(_methods(known)):
        points = sorted(
            (row for row in known if _name(row) == name), key=lambda row: row["ratio"]
        )
        # Recovery is a quotient of this mean and the dense one: it has the relative
        # error of the mean.
        reach = [
            _REACH * (row["stderr"] or 0.0) * row["recovery"] / (abs(row["mean"]) or 1)
            for row in points
        ]
        axes.errorbar(
            [row["ratio"] for row in points],
            [row["recovery"] for row in points],
            yerr=reach,
            capsize=2,
            label=name,
            **_style(index),
        )
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xlabel("ratio asked: share removed")
    axes.set_ylabel("recovery: share of the dense quality kept")


def _finish(figure: Figure, axes: Axes, rows: Rows) -> None:
    first = rows[0]
    axes.set_title(printable(f"{first['model']} on {first['task']}, {first['metric']}"))
    axes.grid(visible=True, linewidth=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)


def _methods(rows: Rows) -> list[str]:
    return list(dict.fromkeys(_name(row) for row in rows))


def _name(row: Mapping[str, Any]) -> str:
    return printable(method_label(row))


def _quality(rows: Rows) -> str:
    arrow = "higher" if rows[0]["goal"] == "max" else "lower"
    return printable(f"{rows[0]['metric']} ({arrow} is better)")


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": SHAPES[index % len(SHAPES)],
        "markersize": 6,
    }

"""Figures of a board: Pareto plots and ratio curves, as SVG or PDF."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from results.boards.costs import COSTS, Rows, front, probabilities
from results.errors import StoreError, unknown
from results.text.columns import printable
from results.text.labels import brief, label, method_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours and shapes are those of the page (results/page/methods.js). The colours have
# at least 3:1 against white, and are told apart by common colour blindness.
COLOURS = (
    *("#0072b2", "#c44e00", "#00795a", "#a3468a"),
    *("#7a6200", "#5646b5", "#a8242c", "#33717f"),
)
SHAPES = ("o", "s", "^", "D", "v", "P", ">", "<")
# Further methods of one colour differ in the dash and in the share of the fill.
_DASHES = ("-", (0, (6, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)))
_FILLED = (1.0, 0.0, 0.4, 0.7)
_GREY = "#6b6b6b"
_WIDTH, _HEIGHT = 7.2, 4.2  # inches; the width is that of the text of a paper
_LETTER, _LINE = 0.06, 0.14  # inches of a letter and of a line of a label
_LETTERS = 40  # of the longest label; a longer one loses its middle
_OFF_SCALE = 20  # a value this many times worse than dense is drawn at the edge
_OFF = ", off scale"
_LEAST_SHARE = 0.05  # a smaller probability to be on the front is not printed
KINDS = ("pareto", "curves")
_REACH = 1.959964  # half a 95 % interval, in standard errors


def draw(kind: str, rows: Rows, *, cost: str = "params", form: str = "svg") -> bytes:
    """A figure of one board.

    Args:
        kind: ``pareto`` (quality against a cost) or ``curves`` (recovery by ratio).
        rows: Rows of the view ``leaderboard``, of one model, task and metric.
        cost: One of ``COSTS``, for ``pareto``; a time needs rows of ``costs.timed``.
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
    settings |= {"pdf.fonttype": 42, "text.parse_math": False, "font.size": 8}
    settings |= {"axes.spines.top": False, "axes.spines.right": False}
    series = series_of(rows)
    height = max(_HEIGHT, 1.2 + _LINE * len(series))
    # The column of labels is as wide as the longest of them, "off scale" included.
    letters = min(_LETTERS, max(len(one.label) for one in series) + len(_OFF))
    labels = _LETTER * letters / _WIDTH
    with mpl.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, height))
        place = (0.1, 0.55 / height, 0.89 - labels, 1 - 0.95 / height)
        axes = figure.add_axes(place)
        axes.grid(visible=True, linewidth=0.3)
        axes.set_title(_title(rows[0]), loc="left")
        if kind == "pareto":
            _pareto(axes, series, cost, height)
        else:
            _curves(axes, series, height)
        out = io.BytesIO()
        meta = {"Date": None} if form == "svg" else None
        figure.savefig(out, format=form, metadata=meta)
    return out.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One method in a figure.

    Args:
        label: Its name with the options that tell it apart from the others.
        look: Colour, marker, fill and dash, as arguments of ``errorbar``.
        rows: Its rows of the view ``leaderboard``.
    """

    label: str
    look: dict[str, Any]
    rows: list[Mapping[str, Any]]


def series_of(rows: Rows) -> list[Series]:
    """Group the rows of one leaderboard by method.

    Args:
        rows: Rows of the view ``leaderboard``.

    Returns:
        One series a method, in the order of their names, the dense model first.
    """
    named: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        named.setdefault(printable(method_label(row)), []).append(row)
    short = brief(named)
    names = sorted(named, key=lambda name: (name != "dense", name))
    made, index = [], 0
    for name in names:
        if name == "dense":
            look = _look(_GREY, SHAPES[0], 0)
        else:
            turn, hue = divmod(index, len(COLOURS))
            look = _look(COLOURS[hue], SHAPES[(hue + turn) % len(SHAPES)], turn)
            index += 1
        made.append(Series(label=short[name], look=look, rows=named[name]))
    return made


def _look(colour: str, shape: str, turn: int) -> dict[str, Any]:
    from matplotlib.colors import to_rgb

    share = _FILLED[turn % len(_FILLED)]
    fill = tuple(share * part + 1 - share for part in to_rgb(colour))
    return {
        "color": colour,
        "marker": shape,
        "markerfacecolor": fill,
        "markersize": 5,
        "linewidth": 1.2,
        "linestyle": _DASHES[turn % len(_DASHES)],
        "elinewidth": 0.7,
    }


def _pareto(axes: Axes, series: Sequence[Series], cost: str, height: float) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    sized = [row for one in series for row in one.rows if row.get(cost) is not None]
    if not sized:
        raise StoreError(f"no row of this board has a measured {cost}")
    dense = _dense(series)
    more = sized[0]["goal"] == "max"
    # Perplexities and losses span decades.
    log = not more and all(row["mean"] > 0 for row in sized)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    limit = dense * _OFF_SCALE if log and dense else math.inf
    labels = []
    for one in series:
        own = [row for row in one.rows if row.get(cost) is not None]
        own.sort(key=lambda row: row[cost])
        if not own:
            continue
        values = [min(row["mean"], limit) for row in own]
        up = [_reach(row) if row["mean"] <= limit else 0.0 for row in own]
        # A bar ends above zero, which a logarithmic axis does not have.
        down = [min(r, 0.99 * v) if log else r for r, v in zip(up, values, strict=True)]
        look = one.look | {"linestyle": "none"}
        axes.errorbar([row[cost] for row in own], values, yerr=[down, up], **look)
        off = _OFF if own[-1]["mean"] > limit else ""
        end = (own[-1][cost], values[-1])
        labels.append((end, one.label + off, one.look["color"]))
    if dense is not None:
        axes.axhline(dense, color=_GREY, linewidth=0.8, linestyle=":")
    best = front([row for row in sized if row["mean"] <= limit], cost, more=more)
    steps = [row[cost] for row in best], [row["mean"] for row in best]
    axes.step(*steps, where="post", color=_GREY, linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(f"{COSTS[cost]} (per cent: probability to be on the front)")
    arrow = "higher" if more else "lower"
    axes.set_ylabel(printable(f"{sized[0]['metric']} ({arrow} is better)"))
    _write_labels(axes, labels, height)
    _write_shares(axes, sized, cost)


def _curves(axes: Axes, series: Sequence[Series], height: float) -> None:
    from matplotlib.ticker import PercentFormatter

    labels = [((0.0, 1.0), "dense", _GREY)]
    for one in series:
        own = [
            (row["ratio"] if row["achieved"] is None else row["achieved"], row)
            for row in one.rows
            if row["recovery"] is not None and row["method"] != "dense"
        ]
        if not own:
            continue
        own.sort(key=lambda point: point[0])
        kept = [row["recovery"] for _, row in own]
        # Recovery is a quotient of this mean and the dense one: it has the relative
        # error of the mean.
        reach = [
            _reach(row) * row["recovery"] / (abs(row["mean"]) or 1) for _, row in own
        ]
        axes.errorbar([x for x, _ in own], kept, yerr=reach, **one.look)
        labels.append(((own[-1][0], kept[-1]), one.label, one.look["color"]))
    if len(labels) == 1:
        raise StoreError("no row of this board has a dense partner to compare with")
    axes.axhline(1.0, color=_GREY, linewidth=0.8, linestyle=":")
    # The label of dense belongs to a line, which reaches the right edge.
    labels[0] = ((axes.get_xlim()[1], 1.0), "dense", _GREY)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("achieved ratio: share removed")
    axes.set_ylabel("recovery: share of the dense quality kept")
    _write_labels(axes, labels, height)


def _dense(series: Sequence[Series]) -> float | None:
    rows = [row for one in series for row in one.rows if row["method"] == "dense"]
    return rows[0]["mean"] if rows else None


def _reach(row: Mapping[str, Any]) -> float:
    return float(_REACH * (row["stderr"] or 0.0))


def _write_labels(
    axes: Axes, labels: Sequence[tuple[tuple[float, float], str, str]], height: float
) -> None:
    """Write each label in a column right of the axes, with a line to its point.

    Args:
        axes: Everything else is drawn: where a point is follows from the limits.
        labels: The point in data, the text and the colour of each.
        height: Inches of the figure.
    """
    axes.autoscale_view()  # which is otherwise done when the figure is saved
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform(point)[1]) for point, _, _ in labels]
    line = _LINE / (axes.get_position().height * height)
    for place, (point, text, colour) in zip(_apart(heights, line), labels, strict=True):
        axes.annotate(
            _cut(text),
            point,
            (1.04, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=7,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.4,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
            },
            annotation_clip=False,
        )


def _cut(text: str) -> str:
    """The start and the end of a long label: its options stand at the end."""
    if len(text) <= _LETTERS:
        return text
    half = (_LETTERS - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _apart(heights: Sequence[float], line: float) -> list[float]:
    """Heights that are at least a line apart, in the same order, within 0 and 1.

    >>> _apart([0.5, 0.5, 0.9], 0.125)
    [0.4375, 0.5625, 0.9]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    up = [heights[i] for i in order]
    down = list(up)
    for i in range(1, len(order)):
        up[i] = max(up[i], up[i - 1] + line)
    for i in reversed(range(len(order) - 1)):
        down[i] = min(down[i], down[i + 1] - line)
    placed = [0.0] * len(order)
    for at, i in enumerate(order):
        # Between the two, labels are as far above their points as below them.
        middle = (up[at] + down[at]) / 2
        highest = 1 - line * (len(order) - 1 - at)
        placed[i] = min(highest, max(line * at, middle))
    return placed


def _write_shares(axes: Axes, rows: Rows, cost: str) -> None:
    """Write the probability to be on the front beside the points that have one."""
    found = zip(probabilities(rows, cost), rows, strict=True)
    taken: list[tuple[float, float]] = []
    # Of points that lie on each other the most probable one is written.
    for share, row in sorted(found, key=lambda pair: -pair[0]):
        x, y = axes.transData.transform((row[cost], row["mean"]))
        if share < _LEAST_SHARE or any(
            abs(x - a) < 30 and abs(y - b) < 10 for a, b in taken
        ):
            continue
        taken.append((x, y))
        axes.annotate(
            f"{share:.0%}",
            (row[cost], row["mean"]),
            (-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7,
        )


def _title(row: Mapping[str, Any]) -> str:
    model = label(row["model"], row["model_options"])
    task = label(row["task"], row["task_options"])
    title = printable(f"{model} on {task}, {row['metric']}")
    return "\n".join(textwrap.wrap(title, 90, break_on_hyphens=False)[:2])

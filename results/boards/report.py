"""A self-contained HTML page of a store: works from a file, asks no network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from results.boards import figures, leaderboard
from results.errors import StoreError
from results.queries import left_out
from results.queries.db import ask
from results.queries.reading import reading
from results.storage.store import Store
from results.tables import published
from results.tables.paper import models_of, paper_table, scores
from results.tables.render import as_html
from results.text import labels
from results.text.columns import printable
from results.text.formats import shown

MOST_FIGURES = 40  # boards beyond these have their numbers in the table only
_MOST_FAILURES = 500
# Column of the view, heading, kind.
_COLUMNS = (
    ("model", "model", "text"),
    ("task", "task", "text"),
    ("metric", "metric", "text"),
    ("method", "method", "text"),
    ("options", "options", "text"),
    ("ratio", "asked", "number"),
    ("achieved", "achieved", "number"),
    ("mean", "value", "number"),
    ("stderr", "± stderr", "number"),
    ("recovery", "recovery", "share"),
    ("seeds", "seeds", "number"),
    ("planned", "planned", "number"),
    ("params", "params", "number"),
    ("bytes", "bytes", "number"),
    ("macs", "MACs", "number"),
    ("seconds", "seconds", "number"),
    ("place", "place", "number"),
    ("protocol", "protocol", "text"),
)
_COVERAGE = """
SELECT p.model, p.task, p.method, p.ratio, count(*) AS planned,
       count(*) FILTER (n.status = 'ok') AS ok,
       count(*) FILTER (n.status = 'unsupported' OR p.unsupported IS NOT NULL) AS no
FROM (SELECT DISTINCT ON (trial) * FROM plans) AS p LEFT JOIN newest AS n USING (trial)
GROUP BY ALL ORDER BY ALL
"""
_OVERVIEW = """
SELECT count(*) AS trials, count(*) FILTER (status = 'ok') AS ok,
       count(*) FILTER (status NOT IN ('ok', 'unsupported')) AS failed,
       count(*) FILTER (status = 'unsupported') AS unsupported,
       count(DISTINCT method) AS methods, count(DISTINCT model) AS models,
       count(DISTINCT task) AS tasks, sum(seconds) / 3600 AS hours
FROM newest
"""
_PROVENANCE = """
SELECT host, device, threads, dtype, "commit", dirty, code_digest, versions,
       count(*) AS trials, min(started_at) AS first, max(started_at) AS last
FROM newest GROUP BY ALL ORDER BY trials DESC LIMIT 200
"""
_PROTOCOLS = """
SELECT task, protocol, protocol_fields, data_fingerprint, count(*) AS trials
FROM newest WHERE status = 'ok' GROUP BY ALL ORDER BY ALL LIMIT 200
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the report.

    Args:
        name: For its file.
        title: For its caption.
        svg: Its content.
    """

    name: str
    title: str
    svg: bytes


def write(store: Store, out: Path) -> list[Path]:
    """Write ``index.html`` and its figures into a folder.

    Args:
        store: What to report.
        out: The folder; made if missing, files of the same names are replaced.

    Returns:
        The files, the page first.

    Raises:
        StoreError: If the store has no trial, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        text, drawn = reading(store, _drawn)
        written = [out / "index.html"]
        written[0].write_text(text, encoding="utf-8")
        for figure in drawn:
            written.append(out / f"{figure.name}.svg")
            written[-1].write_bytes(figure.svg)
    except OSError as why:
        raise StoreError(f"{out} cannot be written: {why}") from why
    return written


def _drawn(snapshot: Store) -> tuple[str, list[Figure]]:
    """The page and its figures, all of one state of the store."""
    left_out.warn(snapshot)
    drawn = list(_figures(snapshot))
    return page(snapshot, drawn), drawn


def page(store: Store, drawn: Sequence[Figure] = ()) -> str:
    """The page as text.

    Args:
        store: What to report.
        drawn: Figures to show in it.

    Returns:
        HTML that needs nothing beside itself.

    Raises:
        StoreError: If the store has no trial.
    """
    overview = ask(store, _OVERVIEW).dicts()[0]
    if not overview["trials"]:
        raise StoreError(f"the store {store.uri} has no trial to report")
    parts = {
        "<!--OVERVIEW-->": _facts(overview),
        "<!--FIGURES-->": "".join(_inline(figure) for figure in drawn) or _none(),
        "<!--COVERAGE-->": _coverage(store),
        "<!--FAILURES-->": _failures(store),
        "<!--PAPERS-->": _papers(store),
        "<!--PROVENANCE-->": _table(store, _PROVENANCE) + _table(store, _PROTOCOLS),
        "<!--DATA-->": _data(store),
        "/*STYLE*/": _asset("report.css"),
        "/*SCRIPT*/": _asset("report.js"),
    }
    # One pass: what is put in is never searched for marks.
    marks = re.compile("|".join(map(re.escape, parts)))
    return marks.sub(lambda found: parts[found[0]], _asset("report.html"))


def _asset(name: str) -> str:
    return (files("results") / "page" / name).read_text(encoding="utf-8")


def _data(store: Store) -> str:
    """The leaderboard as JSON that cannot end its script element."""
    rows = []
    found = ask(store, "FROM leaderboard", through="40_leaderboard").dicts()
    for row in sorted(found, key=lambda row: not row["main"]):  # what tasks ask first
        row["options"] = labels.label("", row["method_options"]).strip()
        rows.append([_rounded(row[name]) for name, _, _ in _COLUMNS])
    columns = [{"name": n, "title": t, "kind": k} for n, t, k in _COLUMNS]
    text = json.dumps({"columns": columns, "rows": rows}, separators=(",", ":"))
    for character in "<>&":  # as escapes they are the same JSON
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    return printable(value) if isinstance(value, str) else value


def _figures(store: Store) -> Iterator[Figure]:
    """A Pareto plot and a curve for the first metric of each model and task."""
    rows = ask(store, "FROM leaderboard WHERE main", through="40_leaderboard").dicts()

    def board(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[column]) for column in leaderboard.BOARD)

    boards = groupby(sorted(rows, key=board), key=board)
    for number, (_, group) in enumerate(boards):
        if number == MOST_FIGURES:
            return
        listed = list(group)
        first = listed[0]
        title = f"{first['model']} on {first['task']}, {first['metric']}"
        for kind in figures.KINDS:
            try:
                svg = figures.draw(kind, listed)
            except StoreError:  # nothing of this kind can be drawn of this board
                continue
            name = f"{kind}-{number:02d}"
            yield Figure(name=name, title=f"{title}: {kind}", svg=svg)


def _inline(figure: Figure) -> str:
    """SVG inside the page; its ids are told apart from the other figures'."""
    text = figure.svg.decode()
    text = text[text.index("<svg") :]
    for attribute in ('id="', 'href="#', "url(#"):
        text = text.replace(attribute, f"{attribute}{figure.name}-")
    caption = f"<figcaption>{_h(figure.title)}</figcaption>"
    return (
        f'<figure role="img" aria-label="{_h(figure.title)}">{caption}{text}</figure>'
    )


def _facts(overview: dict[str, Any]) -> str:
    facts = "".join(
        f"<div><dt>{_h(name)}</dt><dd>{_h(shown(value))}</dd></div>"
        for name, value in overview.items()
    )
    return f'<dl class="facts">{facts}</dl>'


def _coverage(store: Store) -> str:
    """Per model and task, a grid of methods by ratios: how many of the trials stand."""
    rows = ask(store, _COVERAGE).dicts()
    parts = []
    for (model, task), group in groupby(rows, key=lambda r: (r["model"], r["task"])):
        listed = list(group)
        ratios = sorted({row["ratio"] for row in listed})
        cells = {(row["method"], row["ratio"]): row for row in listed}
        heads = "".join(f'<th scope="col" class="n">{ratio:g}</th>' for ratio in ratios)
        lines = []
        for method in dict.fromkeys(row["method"] for row in listed):
            line = "".join(_covered(cells.get((method, ratio))) for ratio in ratios)
            lines.append(f'<tr><th scope="row">{_h(method)}</th>{line}</tr>')
        parts.append(
            f"<h3>{_h(model)} on {_h(task)}</h3><div class='wide'><table><thead><tr>"
            f"<th scope='col'>method</th>{heads}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )
    return "".join(parts) or _none()


def _covered(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "<td></td>"
    if cell["no"] == cell["planned"]:
        return '<td class="n" title="unsupported">n/a</td>'
    share = cell["ok"] / cell["planned"]
    text = f"{cell['ok']}/{cell['planned']}"
    return f'<td class="n part" style="--share:{share:.0%}">{text}</td>'


def _failures(store: Store) -> str:
    columns = (
        "method, model, task, ratio, seed, status, error_class, reason, tries, host"
    )
    return _table(store, f"SELECT {columns} FROM failures LIMIT {_MOST_FAILURES}")


def _papers(store: Store) -> str:
    """The tables of which anything was measured; the others by name."""
    tables = [published.read(name) for name in published.names()]
    known = scores(store, {model for table in tables for model in models_of(table)})
    parts, untouched = [], []
    for paper in tables:
        made = paper_table(store, paper, known=known)
        if any(cell.measured is not None for row in made.rows for cell in row.cells):
            parts.append(as_html(made))
        else:
            untouched.append(paper.name)
    parts.append(f"<p>Not run here: {_h(', '.join(untouched))}.</p>")
    return "".join(parts)


def _table(store: Store, sql: str) -> str:
    answer = ask(store, sql)
    if not answer.rows:
        return _none()
    heads = "".join(f'<th scope="col">{_h(column)}</th>' for column in answer.columns)
    lines = []
    for row in answer.rows:
        cells = (
            f"<td{' class=reason' if len(shown(value)) > 40 else ''}>"
            f"{_h(shown(value))}</td>"
            for value in row
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _none() -> str:
    return "<p>None.</p>"


def _h(text: Any) -> str:
    return html.escape(printable(str(text)), quote=True)

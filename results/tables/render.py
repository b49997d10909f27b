"""Tables as text: terminal, Markdown, LaTeX, HTML, CSV; each number with its key."""

from __future__ import annotations

import html
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator

from results.tables import cells as verdict
from results.tables.cells import Cell
from results.tables.paper import Row, Table, as_answer
from results.text.columns import BOLD, DIM, YELLOW, Columns, printable, styled
from results.text.formats import DASH, as_csv, markdown
from results.text.tex import PACKAGES, tex

FORMATS = ("rich", "md", "latex", "csv", "csv-raw", "html")
MARKS = {
    verdict.REPRODUCED: "=",
    verdict.WITHIN: "≈",
    verdict.PROTOCOL: "p",
    verdict.DIFFERS: "≠",
    verdict.NOT_RUN: "",
    verdict.SUBSTITUTE: "",
    verdict.NO_CLAIM: "",
}
_WIDTH = 2  # gap between columns of a terminal


def render(table: Table, form: str) -> str:
    """The table in one of ``FORMATS``.

    Args:
        table: A paper's table or a custom table.
        form: Output format, one of ``FORMATS``.

    Returns:
        Text without a newline at its end.
    """
    writers: dict[str, Callable[[Table], str]] = {
        "rich": terminal,
        "md": as_markdown,
        "latex": latex,
        "html": as_html,
        "csv": lambda t: as_csv(as_answer(t)),
        "csv-raw": lambda t: as_csv(as_answer(t), formulas=True),
    }
    return writers[form](table)


def terminal(table: Table) -> str:
    """For a terminal: published above measured, split where it is too wide."""
    parts = [styled(printable(table.title), BOLD)]
    parts += [styled(f"! {printable(text)}", BOLD, YELLOW) for text in table.warnings]
    published = _any_published(table)
    for span in _spans(table):
        headings = [*table.labels, *([""] if published else [])]
        headings += [table.columns[i] for i in span]
        left = [True] * (len(headings) - len(span)) + [False] * len(span)
        view = Columns(headings=headings, left=left)
        for row in table.rows:
            if published:
                cells = [row.cells[i].published or DASH for i in span]
                view.add([*row.labels, "published", *cells], DIM)
                labels = [""] * len(row.labels) + ["measured"]
            else:
                labels = list(row.labels)
            view.add([*labels, *(_terminal_cell(row.cells[i]) for i in span)])
        parts.append(str(view))
    # One note for each reason, not one for each empty cell.
    holes = Counter(
        cell.reason or cell.verdict
        for row in table.rows
        for cell in row.cells
        if cell.text is None
    )
    notes = [f"{DASH} {reason} ({count} cells)" for reason, count in holes.items()]
    notes += [*_legend(table), *_notes(table)]
    return "\n".join([*parts, *map(printable, notes)])


def as_markdown(table: Table) -> str:
    """GitHub's Markdown; keys and reasons are footnotes."""
    lines = [f"**{markdown(table.title)}**", ""]
    lines += [f"> **{markdown(text)}**\n" for text in table.warnings]
    headings = [*table.labels, *table.columns]
    lines.append("| " + " | ".join(map(markdown, headings)) + " |")
    rules = ["---"] * len(table.labels) + ["---:"] * len(table.columns)
    lines.append("| " + " | ".join(rules) + " |")
    footnotes: list[str] = []
    for row in table.rows:
        cells = [_markdown_cell(cell, footnotes) for cell in row.cells]
        lines.append("| " + " | ".join([*map(markdown, row.labels), *cells]) + " |")
    lines.append("")
    lines += [f"{markdown(note)}\n" for note in [*_legend(table), *_notes(table)]]
    lines += [f"[^{i}]: {text}" for i, text in enumerate(footnotes, 1)]
    return "\n".join(lines).rstrip("\n")


def latex(table: Table) -> str:
    """A booktabs table; each number's key is a comment at the end of its line."""
    shape = "l" * len(table.labels) + "r" * len(table.columns)
    reasons: dict[str, str] = {}
    body = []
    for row in table.rows:
        labels = [f"{tex(label)} &" for label in row.labels]
        cells = [_latex_cell(cell, reasons) for cell in row.cells]
        for i, (text, key) in enumerate(cells):
            end = r" \\" if i == len(cells) - 1 else " &"
            cells[i] = (text + end, key)
        # One line of the file per cell, since the key is a comment and reaches to the
        # end of its line.
        body += labels + [text + key for text, key in cells]
    headings = " & ".join(map(tex, [*table.labels, *table.columns]))
    notes = [tex(text) for text in [*table.warnings, *_legend(table), *_notes(table)]]
    notes += [f"$^{{{mark}}}$ {tex(reason)}" for reason, mark in reasons.items()]
    lines = [
        f"% needs {PACKAGES}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(table.title)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        rf"{headings} \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def as_html(table: Table) -> str:
    """A ``<figure>`` with a table; keys are ``data-shrinkgrid`` attributes."""
    heads = "".join(f'<th scope="col">{_h(t)}</th>' for t in table.labels)
    heads += "".join(f'<th scope="col" class="n">{_h(t)}</th>' for t in table.columns)
    warned = "".join(f'<p class="warning">{_h(text)}</p>' for text in table.warnings)
    notes = "".join(f"<li>{_h(n)}</li>" for n in [*_legend(table), *_notes(table)])
    rows = "\n".join(_html_row(row) for row in table.rows)
    return (
        f'<figure class="paper">\n<figcaption>{_h(table.title)}</figcaption>\n{warned}'
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>\n<ul>{notes}</ul>\n</figure>"
    )


def _html_row(row: Row) -> str:
    labels = "".join(f'<th scope="row">{_h(label)}</th>' for label in row.labels)
    return f"<tr>{labels}{''.join(map(_html_cell, row.cells))}</tr>"


def _html_cell(cell: Cell) -> str:
    state = cell.verdict.replace(" ", "-") or "open"
    title = ": ".join(filter(None, (cell.verdict, cell.reason)))
    shown = _h(cell.text or DASH)
    if cell.rank == 1:
        shown = f"<b>{shown}</b>"
    elif cell.rank == 2:
        shown = f"<u>{shown}</u>"
    key = ""
    if cell.key:
        key = f' data-shrinkgrid="{_h(json.dumps(cell.key))}"'
    mark = MARKS[cell.verdict] + ("†" if cell.like_best else "")
    published = "" if cell.published is None else f" <i>{_h(cell.published)}</i>"
    return (
        f'<td class="n {state}" title="{_h(title)}"><span{key}>{shown}</span>'
        f"{mark}{published}</td>"
    )


def _terminal_cell(cell: Cell) -> str:
    marks = MARKS[cell.verdict] + ("†" if cell.like_best else "")
    star = "★" if cell.rank == 1 else ""
    return f"{star}{cell.text or DASH}{marks}"


def _markdown_cell(cell: Cell, footnotes: list[str]) -> str:
    published = "" if cell.published is None else f" ({markdown(cell.published)})"
    if cell.text is None:
        footnotes.append(markdown(cell.reason or cell.verdict))
        return f"{DASH}[^{len(footnotes)}]{published}"
    text = cell.text
    if cell.rank == 1:
        text = f"**{text}**"
    elif cell.rank == 2:
        text = f"<u>{text}</u>"
    reason = f" {markdown(cell.reason)}" if cell.reason else ""
    # The key in the footnote is what ``verify`` reads.
    footnotes.append(f"`shrinkgrid {json.dumps(cell.key)}`{reason}")
    marks = MARKS[cell.verdict] + ("†" if cell.like_best else "")
    return f"{text}[^{len(footnotes)}]{marks}{published}"


_TEX_MARKS = {"=": "$^{=}$", "≈": r"$^{\approx}$", "≠": r"$^{\neq}$", "p": "$^{p}$"}


def _latex_cell(cell: Cell, reasons: dict[str, str]) -> tuple[str, str]:
    published = "" if cell.published is None else f" ({tex(cell.published)})"
    if cell.text is None:
        reason = cell.reason or cell.verdict
        mark = reasons.setdefault(reason, _letters(len(reasons)))
        return f"--$^{{{mark}}}${published}", ""
    text = cell.text
    if cell.rank == 1:
        text = rf"\textbf{{{text}}}"
    elif cell.rank == 2:
        text = rf"\underline{{{text}}}"
    marks = _TEX_MARKS.get(MARKS[cell.verdict], "")
    marks += r"$^{\dagger}$" if cell.like_best else ""
    return f"{text}{marks}{published}", f" % shrinkgrid {json.dumps(cell.key)}"


def _letters(index: int) -> str:
    """a, b ... z, aa ...: marks of footnotes.

    >>> [_letters(i) for i in (0, 25, 26)]
    ['a', 'z', 'aa']
    """
    text = ""
    index += 1
    while index:
        # Base 26 without a zero: after z comes aa.
        index, rest = divmod(index - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _h(text: str) -> str:
    return html.escape(printable(str(text)), quote=True)


def _any_published(table: Table) -> bool:
    return any(cell.published for row in table.rows for cell in row.cells)


def _spans(table: Table) -> Iterator[range]:
    """Columns that fit beside the labels, as many at a time as there is room for."""
    room = shutil.get_terminal_size((100, 24))[0]
    labels = [[row.labels[i] for row in table.rows] for i in range(len(table.labels))]
    # Labels wider than 24 characters fold, so that they do not take all of the room.
    used = sum(min(24, max(map(len, column), default=0)) + _WIDTH for column in labels)
    used += 9 + _WIDTH if _any_published(table) else 0
    start, width = 0, used
    for i, heading in enumerate(table.columns):
        cells = [row.cells[i] for row in table.rows]
        texts = [
            heading,
            *map(_terminal_cell, cells),
            *(c.published or "" for c in cells),
        ]
        wanted = max(map(len, texts)) + _WIDTH
        if i > start and width + wanted > room:
            yield range(start, i)
            start, width = i, used
        width += wanted
    yield range(start, len(table.columns))


def _legend(table: Table) -> list[str]:
    """How many cells have each verdict, with its mark."""
    counts = [
        f"{count} {name}{f' ({MARKS[name]})' if MARKS[name] else ''}"
        for name, count in table.verdicts().items()
        if count
    ]
    return ["Verdicts: " + ", ".join(counts)] if counts else []


def _notes(table: Table) -> list[str]:
    """The table's notes, and in which protocol fields its cells differ."""
    fields = {
        cell.reason
        for row in table.rows
        for cell in row.cells
        if cell.verdict == verdict.PROTOCOL
    }
    differ = [f"Protocol differs in: {'; '.join(sorted(fields))}"] if fields else []
    return [*differ, *table.notes]

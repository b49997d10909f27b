"""Boards of a leaderboard for a document: Markdown, LaTeX or HTML."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

from results.boards.board_rows import STAR, TEXTS, like_best, slower
from results.boards.leaderboard import Board, one_seed
from results.text.columns import printable
from results.text.formats import markdown
from results.text.tex import PACKAGES, tex

FORMATS = ("md", "latex", "html")
_STAR = "★ is the best of its ratio."


def render(boards: Sequence[Board], form: str) -> str:
    """The boards with the columns that a terminal shows.

    Args:
        boards: Of ``leaderboard.listed``.
        form: One of ``FORMATS``.

    Returns:
        Text without a newline at its end. LaTeX has one booktabs table a board, HTML
        one ``<figure>``.
    """
    writers: dict[str, Callable[[Board], str]] = {
        "md": _markdown,
        "latex": _latex,
        "html": _html,
    }
    return "\n\n".join(writers[form](board) for board in boards)


def _about(board: Board) -> str:
    """The sentences above or below a table."""
    starred = [_STAR] if any(line[0] == STAR for line in board.cells()) else []
    note = [f"{board.note}."] if board.note else []
    said = (like_best(board.rows), slower(board.rows), one_seed([board]))
    notes = [f"{one}." for one in said if one]
    return " ".join([f"{board.ranked}.", *note, *starred, *notes])


def _named(line: Sequence[str], write: Callable[[str], str], best: str) -> list[str]:
    """The cells without the column of marks, which follow the method."""
    mark, *rest = line
    cells = [write(cell) for cell in rest]
    if mark == STAR:
        cells[0] = best.format(cells[0])
    if mark:
        cells[0] += f" {write(mark)}"
    return cells


def _markdown(board: Board) -> str:
    heads = board.headings()
    rules = ["---" if i in TEXTS else "---:" for i in range(len(heads))]
    lines = [f"**{markdown(board.title)}**: {markdown(_about(board))}", ""]
    lines.append(f"| {' | '.join(map(markdown, heads[1:]))} |")
    lines.append(f"| {' | '.join(rules[1:])} |")
    for line in board.cells():
        lines.append(f"| {' | '.join(_named(line, markdown, '**{}**'))} |")
    return "\n".join(lines)


def _latex(board: Board) -> str:
    heads = board.headings()
    shape = "".join("l" if i in TEXTS else "r" for i in range(1, len(heads)))
    body = []
    ratio = board.rows[0]["ratio"]
    for row, line in zip(board.rows, board.cells(), strict=True):
        if row["ratio"] != ratio:
            body.append(r"\addlinespace")
            ratio = row["ratio"]
        body.append(" & ".join(_named(line, tex, r"\textbf{{{}}}")) + r" \\")
    return "\n".join(
        [
            f"% needs {PACKAGES}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(board.title)}: {tex(_about(board))}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{shape}}}",
            r"\toprule",
            " & ".join(map(tex, heads[1:])) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
    )


def _html(board: Board) -> str:
    kinds = ["" if i in TEXTS else ' class="n"' for i in range(len(board.headings()))]
    heads = "".join(
        f'<th scope="col"{kind}>{_escaped(head)}</th>'
        for head, kind in zip(board.headings()[1:], kinds[1:], strict=True)
    )
    rows = []
    for line in board.cells():
        name, *rest = _named(line, _escaped, "<b>{}</b>")
        cells = "".join(
            f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, kinds[2:], strict=True)
        )
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    caption = f"{_escaped(board.title)}: {_escaped(_about(board))}"
    return "\n".join(
        [
            '<figure class="leaderboard">',
            f"<figcaption>{caption}</figcaption>",
            f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>',
            *rows,
            "</tbody></table></div>",
            "</figure>",
        ]
    )


def _escaped(text: str) -> str:
    return html.escape(printable(text), quote=True)

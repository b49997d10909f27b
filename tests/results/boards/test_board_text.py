"""Boards for a document: the columns of the terminal, in Markdown, LaTeX and HTML."""

import xml.etree.ElementTree as ET

import pytest
from synthetic import row

from results.boards import board_text, leaderboard
from results.queries import protocols
from results.text.formats import DASH

HOSTILE = "<b>|&_\\x$\"'"


@pytest.fixture
def boards(empty):
    """Dense, a best method with a hostile name, and its rival."""
    for method, ratio, value in (
        ("dense", 0.0, 0.9),
        (HOSTILE, 0.2, 0.81),
        ("magnitude", 0.2, 0.45),
    ):
        measured = {"accuracy": value}
        empty.append(row(method, method=method, ratio=ratio, measured=measured))
    rows = leaderboard.read(empty)
    return leaderboard.listed(rows, protocols.stored(empty, set()))


def test_markdown_is_the_board_of_the_terminal(boards):
    _, escaped = DASH, r"&lt;b>\|&amp;\_\\x\$" + "\"'"
    assert board_text.render(boards, "md").splitlines() == [
        "**mlp on digits**: accuracy, higher is better. ★ is the best of its ratio.",
        "",
        "| method | asked | achieved | of | accuracy | ± stderr | recovery | params "
        "| seeds |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
        f"| dense | 0 | {_} | weights | 0.9 | {_} | 100.0% | {_} | 1/1 |",
        f"| **{escaped}** ★ | 0.2 | {_} | weights | 0.81 | {_} | 90.0% | {_} | 1/1 |",
        f"| magnitude | 0.2 | {_} | weights | 0.45 | {_} | 50.0% | {_} | 1/1 |",
    ]


def test_latex_sets_the_ratios_apart_and_escapes_names(boards):
    lines = board_text.render(boards, "latex").splitlines()
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert body[0] == r"dense & 0 & -- & weights & 0.9 & -- & 100.0\% & -- & 1/1 \\"
    assert body[1] == r"\addlinespace"
    name = r"\textless{}b\textgreater{}\textbar{}\&\_\textbackslash{}x\$"
    name += r"\textquotedbl{}\textquotesingle{}"
    assert body[2].startswith(rf"\textbf{{{name}}} $\star$ & 0.2 & ")
    assert r"\begin{tabular}{lrrlrrrrr}" in lines


def test_html_is_well_formed_and_escapes_names(boards):
    figure = ET.fromstring(board_text.render(boards, "html"))
    names = ["".join(th.itertext()) for th in figure.iterfind(".//tbody//th")]
    assert names == ["dense", f"{HOSTILE} ★", "magnitude"]
    heads = [th.text for th in figure.iterfind(".//thead//th")]
    values = [td.text for td in figure.findall(".//tbody/tr")[1].iterfind("td")]
    assert dict(zip(heads[1:], values, strict=True))["recovery"] == "90.0%"


def test_boards_are_parted_by_an_empty_line(stored):
    boards = leaderboard.listed(leaderboard.read(stored))
    parts = board_text.render(boards, "md").split("\n\n**")
    assert len(parts) == len(boards) == 2

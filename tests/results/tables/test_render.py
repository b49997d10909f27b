"""Tables as text in every format, and the check of a written one."""

import csv
import html
import io
import json
import re
import shutil
import subprocess

import pytest
from synthetic import row

from results.tables import published
from results.tables.cells import DIFFERS, NOT_RUN, PROTOCOL, REPRODUCED, Cell
from results.tables.custom import custom_table
from results.tables.paper import Row, Table, paper_table
from results.tables.render import FORMATS, _spans, render

HOSTILE = "<script>alert(1)</script> 50% of_$x$ & a|b \\input{x} ^~#{} \x1b[2J `c`"


@pytest.fixture
def hostile(empty):
    empty.append(row("t'; DROP VIEW trials--", method=HOSTILE, task=HOSTILE))
    empty.append(row("u", method="other", task=HOSTILE, measured={"accuracy": 0.91}))
    return custom_table(empty, rows=["method"], cols=["task"], metric="accuracy")


def test_a_hostile_name_is_only_text_in_html(hostile):
    text = render(hostile, "html")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_hostile_name_cannot_leave_its_markdown_cell(hostile):
    lines = [x for x in render(hostile, "md").splitlines() if x.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "<script" not in render(hostile, "md")


def test_a_hostile_name_cannot_move_the_terminals_cursor(hostile):
    plain = re.sub(r"\x1b\[[\d;]*m", "", render(hostile, "rich"))  # our own colours
    assert "\x1b" not in plain


def test_latex_specials_are_escaped(hostile):
    text = render(hostile, "latex")
    assert r"50\% of\_\$x\$ \& a\textbar{}b \textbackslash{}input\{x\}" in text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
@pytest.mark.parametrize("name", ["hostile", "basis_sharing_1", "sb_gru_1"])
def test_latex_compiles(hostile, stored, tmp_path, name):
    table = hostile if name == "hostile" else paper_table(stored, published.read(name))
    document = "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage{booktabs,graphicx}",
            r"\begin{document}",
            render(table, "latex"),
            r"\end{document}",
        ]
    )
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_csv_has_every_cell_with_all_digits_and_its_key(stored):
    axes = {"rows": ["method", "ratio"], "cols": ["model"], "metric": "accuracy"}
    text = render(custom_table(stored, **axes), "csv")
    first = next(csv.DictReader(io.StringIO(text)))
    assert first["method"] == "dense"
    assert float(first["measured"]) == pytest.approx(0.943333333)
    assert len(json.loads(first["key"])["trials"]) == 3


def known() -> Table:
    """Every kind of cell once, beside its published number or without one."""
    same = Cell(
        published="0.95",
        measured=0.951,
        digits=3,
        verdict=REPRODUCED,
        key={"metric": "accuracy", "trials": ["a"]},
    )
    hole = Cell(published="5.1", verdict=NOT_RUN, reason="no such trial")
    protocol = Cell(
        published="0.90",
        measured=0.9,
        digits=2,
        verdict=PROTOCOL,
        reason="split",
        rank=1,
        key={"trials": ["b"]},
    )
    alike = Cell(measured=7.25, digits=2, rank=2, like_best=True, key={"k": "c"})
    differs = Cell(
        published="0.80", measured=0.7, digits=1, verdict=DIFFERS, rank=2, key={"k": 1}
    )
    return Table(
        title="Nets & sizes",
        labels=["method"],
        columns=["digits", "texts"],
        rows=[
            Row(labels=["dense"], cells=[same, hole]),
            Row(labels=["svd"], cells=[protocol, alike]),
            Row(labels=["wanda"], cells=[differs, Cell(reason="no such trial")]),
        ],
        warnings=["Synthetic numbers"],
        notes=["A note"],
    )


VERDICTS = "1 reproduced (=), 1 protocol differs (p), 1 not reproduced ({}), 1 not run"


def test_markdown_has_every_mark_and_a_footnote_for_every_cell():
    assert render(known(), "md").splitlines() == [
        "**Nets &amp; sizes**",
        "",
        "> **Synthetic numbers**",
        "",
        "| method | digits | texts |",
        "| --- | ---: | ---: |",
        "| dense | 0.951[^1]= (0.95) | \N{EN DASH}[^2] (5.1) |",
        "| svd | **0.90**[^3]p (0.90) | <u>7.25</u>[^4]† |",
        "| wanda | <u>0.7</u>[^5]≠ (0.80) | \N{EN DASH}[^6] |",
        "",
        f"Verdicts: {VERDICTS.format('≠')}",
        "",
        "Protocol differs in: split",
        "",
        "A note",
        "",
        '[^1]: `shrinkgrid {"metric": "accuracy", "trials": ["a"]}`',
        "[^2]: no such trial",
        '[^3]: `shrinkgrid {"trials": ["b"]}` split',
        '[^4]: `shrinkgrid {"k": "c"}`',
        '[^5]: `shrinkgrid {"k": 1}`',
        "[^6]: no such trial",
    ]


def test_latex_has_every_mark_and_the_key_of_a_number_on_its_line():
    lines = render(known(), "latex").splitlines()

    first = lines.index(r"\begin{tabular}{lrr}")
    assert r"\caption{Nets \& sizes}" in lines[:first]
    assert lines[first + 1 :] == [
        r"\toprule",
        r"method & digits & texts \\",
        r"\midrule",
        "dense &",
        '0.951$^{=}$ (0.95) & % shrinkgrid {"metric": "accuracy", "trials": ["a"]}',
        r"--$^{a}$ (5.1) \\",
        "svd &",
        r'\textbf{0.90}$^{p}$ (0.90) & % shrinkgrid {"trials": ["b"]}',
        r'\underline{7.25}$^{\dagger}$ \\ % shrinkgrid {"k": "c"}',
        "wanda &",
        r'\underline{0.7}$^{\neq}$ (0.80) & % shrinkgrid {"k": 1}',
        r"--$^{a}$ \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par{\footnotesize Synthetic numbers\par}",
        r"\par{\footnotesize Verdicts: " + VERDICTS.format(r"$\neq$") + r"\par}",
        r"\par{\footnotesize Protocol differs in: split\par}",
        r"\par{\footnotesize A note\par}",
        r"\par{\footnotesize $^{a}$ no such trial\par}",
        r"\end{table}",
    ]


def test_html_has_every_mark_the_key_of_a_number_and_the_reason_of_a_hole():
    lines = render(known(), "html").splitlines()

    assert lines[:2] == [
        '<figure class="paper">',
        "<figcaption>Nets &amp; sizes</figcaption>",
    ]
    assert lines[2].startswith('<p class="warning">Synthetic numbers</p>')
    key = html.escape('{"metric": "accuracy", "trials": ["a"]}')
    assert lines[5:8] == [
        '<tr><th scope="row">dense</th><td class="n reproduced" title="reproduced">'
        f'<span data-shrinkgrid="{key}">0.951</span>= <i>0.95</i></td>'
        '<td class="n not-run" title="not run: no such trial"><span>\N{EN DASH}</span>'
        " <i>5.1</i></td></tr>",
        '<tr><th scope="row">svd</th><td class="n protocol-differs" '
        'title="protocol differs: split"><span data-shrinkgrid="{&quot;trials&quot;: '
        '[&quot;b&quot;]}"><b>0.90</b></span>p <i>0.90</i></td><td class="n open" '
        'title=""><span data-shrinkgrid="{&quot;k&quot;: &quot;c&quot;}"><u>7.25</u>'
        "</span>†</td></tr>",
        '<tr><th scope="row">wanda</th><td class="n not-reproduced" '
        'title="not reproduced"><span data-shrinkgrid="{&quot;k&quot;: 1}"><u>0.7</u>'
        '</span>≠ <i>0.80</i></td><td class="n open" title="no such trial">'
        "<span>\N{EN DASH}</span></td></tr>",
    ]
    assert lines[9] == (
        f"<ul><li>Verdicts: {VERDICTS.format('≠')}</li><li>Protocol differs in: split"
        "</li><li>A note</li></ul>"
    )


def test_a_terminal_shows_published_above_measured_and_counts_the_holes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    plain = re.sub(r"\x1b\[[\d;]*m", "", render(known(), "rich"))

    assert plain.splitlines() == [
        "Nets & sizes",
        "! Synthetic numbers",
        "method             digits  texts",
        "─" * 32,
        "dense   published    0.95    5.1",
        "        measured   0.951=      \N{EN DASH}",
        "svd     published    0.90      \N{EN DASH}",
        "        measured   ★0.90p  7.25†",
        "wanda   published    0.80      \N{EN DASH}",
        "        measured     0.7≠      \N{EN DASH}",
        "\N{EN DASH} no such trial (2 cells)",
        f"Verdicts: {VERDICTS.format('≠')}",
        "Protocol differs in: split",
        "A note",
    ]


def bare(label: str, *headings: str) -> Table:
    """One row without published numbers."""
    cells = [Cell(measured=0.5, digits=1) for _ in headings]
    rows = [Row(labels=[label], cells=cells)]
    return Table(title="t", labels=["m"], columns=list(headings), rows=rows)


def test_without_published_numbers_a_row_is_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    plain = re.sub(r"\x1b\[[\d;]*m", "", render(bare("svd", "digits"), "rich"))
    assert plain.splitlines() == ["t", "m    digits", "─" * 11, "svd     0.5"]


@pytest.mark.parametrize(
    ("table", "fits"),
    [
        # Label 5 + 2, `published` 9 + 2, cells 6 + 2 and 5 + 2.
        (known(), 33),
        # A label takes 24 + 2 at most; the headings are 4 + 2 each.
        (bare("x" * 30, "aaaa", "bbbb"), 38),
        (bare("x" * 3, "aaaa", "bbbb"), 17),
    ],
)
def test_a_table_is_split_where_the_next_column_does_not_fit(monkeypatch, table, fits):
    monkeypatch.setenv("COLUMNS", str(fits))
    assert list(_spans(table)) == [range(2)]
    monkeypatch.setenv("COLUMNS", str(fits - 1))
    assert list(_spans(table)) == [range(1), range(1, 2)]


def test_a_column_that_is_wider_than_the_terminal_stands_alone(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    table = bare("svd", "a" * 40, "b" * 8, "c", "d" * 9)
    # Label 3 + 2: then 8 + 2 and 3 + 2 fill the line of 20 exactly.
    assert list(_spans(table)) == [range(1), range(1, 3), range(3, 4)]


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_ends_with_an_empty_line_or_shows_what_is_not_there(form):
    table = bare("svd", "digits")
    text = render(table, form)
    assert text
    assert not text.endswith("\n")
    assert "Verdicts" not in text
    assert "Protocol" not in text


def test_a_letter_that_latex_has_no_glyph_for_loses_its_accent():
    def printed(text: str) -> str:
        return render(bare(text, "a"), "latex")

    assert "\nÄ\u0142 s x ? a b &\n" in printed("Ä\u0142 \u1e61 x \u2603 a\n b")

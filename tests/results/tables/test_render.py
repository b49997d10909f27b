"""Tables as text in every format, and the check of a written one."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from synthetic import row

from results.errors import StoreError
from results.tables import published
from results.tables.custom import own_table
from results.tables.paper import paper_table
from results.tables.render import render
from results.tables.verify import verify

HOSTILE = "<script>alert(1)</script> 50% of_$x$ & a|b \\input{x} ^~#{} \x1b[2J `c`"


@pytest.fixture
def hostile(empty):
    empty.append(row("t'; DROP VIEW trials--", method=HOSTILE, task=HOSTILE))
    empty.append(row("u", method="other", task=HOSTILE, measured={"accuracy": 0.91}))
    return own_table(empty, rows=["method"], cols=["task"], metric="accuracy")


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


@pytest.mark.parametrize("form", ["md", "latex", "html"])
def test_verify_finds_every_number_and_no_drift(stored, tmp_path, form):
    axes = {"rows": ["method", "ratio"], "cols": ["model"], "metric": "accuracy"}
    table = own_table(stored, **axes)
    file = tmp_path / "t"
    file.write_text("Some text before 12.5 and\n" + render(table, form) + "\nafter 3")
    assert verify(stored, file) == (7, [])


@pytest.mark.parametrize("form", ["md", "latex", "html"])
def test_verify_names_the_number_that_drifted(empty, tmp_path, form):
    empty.append(row("a", method="a", measured={"accuracy": 0.9}))
    empty.append(row("b", method="b", measured={"accuracy": 0.8}))
    axes = {"rows": ["method"], "cols": ["task"], "metric": "accuracy"}
    file = tmp_path / "t"
    file.write_text(render(own_table(empty, **axes), form))
    empty.append(row("a", method="a", minute=1, measured={"accuracy": 0.7}))

    checked, drifted = verify(empty, file)

    assert checked == 2
    assert [(d.written.printed, d.computed) for d in drifted] == [("0.9000", "0.7000")]


def test_verify_reads_a_forged_number(stored, tmp_path):
    axes = {"rows": ["method", "ratio"], "cols": ["model"], "metric": "accuracy"}
    text = render(own_table(stored, **axes), "md")
    forged = text.replace("0.9433[", "0.9999[")
    assert forged != text
    (tmp_path / "t.md").write_text(forged)
    drifted = verify(stored, tmp_path / "t.md")[1]
    assert [(d.written.printed, d.computed) for d in drifted] == [("0.9999", "0.9433")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no numbers", "no number with a key"),
        ("0.5 % shrinkgrid {broken}", "is no JSON"),
        ('0.5 % shrinkgrid {"metric":"a"}', "names no trials"),
        (
            '0.5 % shrinkgrid {"column":"1; DROP","trials":["a"]}',
            "which trials lack",
        ),
    ],
)
def test_a_file_without_good_keys_is_explained(stored, tmp_path, text, message):
    (tmp_path / "t.tex").write_text(text)
    with pytest.raises(StoreError, match=message):
        verify(stored, tmp_path / "t.tex")


def test_csv_has_every_cell_with_all_digits_and_its_key(stored):
    axes = {"rows": ["method", "ratio"], "cols": ["model"], "metric": "accuracy"}
    text = render(own_table(stored, **axes), "csv")
    first = next(csv.DictReader(io.StringIO(text)))
    assert first["method"] == "dense"
    assert float(first["measured"]) == pytest.approx(0.943333333)
    assert len(json.loads(first["key"])["trials"]) == 3

"""Tables: matching of trials, verdicts, marks, formats, verification."""

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from synthetic import row

from results import papers
from results.cells import DIFFERS, NOT_RUN, PROTOCOL, REPRODUCED, SUBSTITUTE, WITHIN
from results.errors import StoreError
from results.papers import PaperTable
from results.tables import own_table, paper_table
from results.tables_text import render
from results.verify import verify


def _paper(*rows, columns=None, **more) -> PaperTable:
    wanted = {"task": "digits", "metric": "accuracy", "goal": "max", "scale": 100}
    return PaperTable(
        name="p",
        title="A table",
        columns=columns or [{"name": "accuracy", **wanted}],
        rows=[{"label": "it", "model": "mlp", "cells": [None], **r} for r in rows],
        **more,
    )


def _verdicts(store, *rows, **more):
    table = paper_table(store, _paper(*rows, **more))
    return [(cell.verdict, cell.reason) for r in table.rows for cell in r.cells]


SVD = {"method": "svd", "ratio": 0.2}


@pytest.mark.parametrize(
    ("value", "printed", "verdict"),
    [
        (0.9104, "91.0", REPRODUCED),  # rounds to what is printed
        (0.9106, "91.0", DIFFERS),
        (0.9106, "91", REPRODUCED),  # fewer digits printed, less to agree on
        (0.5, "91.0", DIFFERS),
    ],
)
def test_a_number_is_reproduced_to_the_printed_digit(empty, value, printed, verdict):
    empty.append(row("t", measured={"accuracy": value}))
    assert _verdicts(empty, SVD | {"cells": [printed]}) == [(verdict, "")]


def test_a_stated_tolerance_replaces_the_printed_digit(empty):
    empty.append(row("t", measured={"accuracy": 0.912}))
    stated = SVD | {"cells": ["91.0"], "within": 0.3}
    assert _verdicts(empty, stated) == [(REPRODUCED, "")]


def test_within_interval_means_the_interval_over_seeds_covers_it(empty):
    # 0.90, 0.92: mean 0.91, t(0.975, 1) = 12.7 errors of 0.01 on either side.
    for seed, value in enumerate((0.90, 0.92)):
        empty.append(row(f"t{seed}", seed=seed, measured={"accuracy": value}))
    assert _verdicts(empty, SVD | {"cells": ["95.0"]}) == [(WITHIN, "")]
    assert _verdicts(empty, SVD | {"cells": ["10.0"]}) == [(DIFFERS, "")]


def test_a_protocol_that_differs_is_named_by_its_field(empty):
    empty.append(row("t", protocol_fields='{"split":"test","tail":"dropped"}'))
    stated = SVD | {"cells": ["90"], "protocol": {"tail": "equal_weight"}}
    assert _verdicts(empty, stated) == [(PROTOCOL, "tail")]


def test_a_task_of_the_same_data_but_another_protocol_is_no_reproduction(empty):
    empty.append(
        row("t", task="wikitext2-2048", measured={"perplexity": 5.0}, model="mlp")
    )
    wanted = {"task": "wikitext2-1024", "metric": "perplexity", "goal": "min"}
    found = _verdicts(
        empty, SVD | {"cells": ["5.0"]}, columns=[{"name": "w", **wanted}]
    )
    assert found == [(PROTOCOL, "task wikitext2-2048")]


def test_a_limited_evaluation_is_no_reproduction(empty):
    empty.append(row("t", protocol_fields='{"limit":10}'))
    assert _verdicts(empty, SVD | {"cells": ["90"]}) == [(PROTOCOL, "limit")]


def test_not_run_says_why(empty):
    empty.append(
        row("t", status="failed", reason="ValueError: no", ratio=0.4, method="svd")
    )
    found = _verdicts(
        empty,
        {"method": "svd", "ratio": 0.4, "cells": ["9"]},
        {"method": "gptq", "ratio": 0.4, "cells": ["9"]},
    )
    assert found == [
        (NOT_RUN, "failed: ValueError: no"),
        (NOT_RUN, "no such trial in the store"),
    ]


def test_options_must_be_those_of_the_cell(empty):
    empty.append(row("t", method_options='{"group_size":2}', method="basis_sharing"))
    want = {"method": "basis_sharing", "ratio": 0.2, "cells": ["90.0"]}
    assert _verdicts(empty, want | {"options": {"group_size": 4}})[0][0] == NOT_RUN
    assert _verdicts(empty, want | {"options": {"group_size": 2}})[0][0] == REPRODUCED


def test_the_dense_row_comes_first_and_its_disagreement_is_on_top(empty):
    empty.append(row("d", method="dense", ratio=0.0, measured={"accuracy": 0.5}))
    dense = {"method": "dense", "ratio": 0.0, "label": "dense", "cells": ["91.0"]}
    table = paper_table(empty, _paper(SVD | {"cells": ["80.0"]}, dense))
    assert table.rows[0].labels[0] == "dense"
    assert (
        "dense row disagrees in accuracy: measured 50.0, published 91.0"
        in (table.warnings[0])
    )
    assert "dense row disagrees" in render(table, "rich").splitlines()[1]


def test_a_substitute_is_headed_as_such_and_gets_no_verdict(empty):
    empty.append(row("t", model="small", measured={"accuracy": 0.8}))
    paper = _paper(SVD | {"cells": ["80.0"]})
    table = paper_table(empty, paper, substitutes={"mlp": "small"})
    assert table.rows[0].cells[0].verdict == SUBSTITUTE
    assert table.rows[0].cells[0].text == "80.0"
    assert table.warnings[0].startswith("Not the paper's models: small stands for mlp")
    with pytest.raises(StoreError, match=r"no model of p called 'mpl'.*Did you mean"):
        paper_table(empty, paper, substitutes={"mpl": "small"})


def test_a_mean_of_tasks_has_a_hole_where_one_task_has(empty):
    columns = [
        {"name": "a", "task": "digits", "metric": "accuracy", "goal": "max"},
        {"name": "b", "task": "mnist", "metric": "accuracy", "goal": "max"},
        {"name": "mean", "mean_of": ["a", "b"], "goal": "max"},
    ]
    paper = _paper(SVD | {"cells": ["0.9", "0.7", "0.8"]}, columns=columns)
    empty.append(row("t", measured={"accuracy": 0.9}))
    assert paper_table(empty, paper).rows[0].cells[2].measured is None
    empty.append(row("u", task="mnist", measured={"accuracy": 0.7}))
    mean = paper_table(empty, paper).rows[0].cells[2]
    assert mean.measured == pytest.approx(0.8)
    assert mean.verdict == REPRODUCED


def _rivals(store, right_a, right_b):
    for method, right in (("a", right_a), ("b", right_b)):
        made = row(
            method, method=method, measured={"accuracy": sum(right) / len(right)}
        )
        store.append(made, [{"metric": "accuracy", "values": right}])
    table = own_table(store, rows=["method"], cols=["task"], metric="accuracy")
    return {r.labels[0]: r.cells[0] for r in table.rows}


def test_best_and_second_are_placed_and_a_clear_gap_is_not_marked(empty):
    cells = _rivals(empty, [1.0] * 90 + [0.0] * 10, [1.0] * 60 + [0.0] * 40)
    assert (cells["a"].place, cells["b"].place) == (1, 2)
    assert not cells["b"].like_best  # McNemar: 30 against 0


def test_a_gap_that_chance_explains_is_marked(empty):
    cells = _rivals(empty, [1.0] * 90 + [0.0] * 10, [1.0] * 89 + [0.0] * 11)
    assert cells["b"].like_best  # McNemar: 1 against 0, p = 1


def test_equal_numbers_tie(empty):
    cells = _rivals(empty, [1.0, 0.0], [0.0, 1.0])
    assert (cells["a"].place, cells["b"].place) == (1, 1)


def test_an_own_table_over_mixed_protocols_is_refused_with_the_fields(empty):
    empty.append(row("a", protocol="p1", protocol_fields='{"window":512,"x":1}'))
    empty.append(row("b", protocol="p2", protocol_fields='{"window":64,"x":1}'))
    axes = {"rows": ["method"], "cols": ["task"], "metric": "accuracy"}
    with pytest.raises(
        StoreError, match=r"2 protocols.*differ in window; .*--allow-mi"
    ):
        own_table(empty, **axes)
    assert own_table(empty, **axes, allow_mixed=True).rows[0].cells[0].seeds == 2


def test_a_cell_that_would_mix_ratios_is_refused(stored):
    with pytest.raises(
        StoreError, match=r"would be a mean over ratio 0\.2, 0\.4, 0\.6"
    ):
        own_table(stored, rows=["method"], cols=["model"], metric="accuracy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ["methud"]}, "Did you mean 'method'"),
        ({"metric": "accurac"}, "Did you mean 'accuracy'"),
        ({"where": "ratio > 5"}, "no trial in .* fits 'ratio > 5'"),
        ({"where": "nope = 1"}, "nope"),
        ({"where": "true) UNION (SELECT 1"}, "UNION|columns|Error"),
        ({"where": "(SELECT count(*) FROM read_text('/etc/passwd')) > 0"}, "outside"),
    ],
)
def test_bad_words_of_an_own_table_are_explained(stored, change, message):
    axes = {"rows": ["method"], "cols": ["task"], "metric": "accuracy"}
    with pytest.raises(StoreError, match=message):
        own_table(stored, **(axes | change))


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
    table = hostile if name == "hostile" else paper_table(stored, papers.read(name))
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


# The packaged tables


def test_at_least_the_promised_tables_are_packaged():
    promised = {f"basis_sharing_{i}" for i in range(1, 9)}
    promised |= {"svd_llm_1", "svd_llm_2", "svd_llm_v2_2", "d_rank_3", "slicegpt_1"}
    promised |= {"lowrankarena", "sb_gru_1", "dropback_claims", "data_free_claims"}
    promised |= {"class_exclusion_claims", "tpp_1", "network_slimming", "hrank"}
    promised |= {"hrankplus", "depgraph_resnet56", "depgraph_vgg19"}
    promised |= {"variational_dropout", "bayesian_compression", "branchynet_1"}
    assert promised <= set(papers.names())


@pytest.mark.parametrize("name", papers.names())
def test_a_packaged_table_is_whole(name):
    table = papers.read(name)
    assert table.paper
    assert table.sources
    assert table.table
    for number, one in enumerate(table.rows):
        assert len(one["cells"]) == len(table.columns), number
        assert all(c is None or isinstance(c, str) for c in one["cells"])
        assert any(c is not None for c in one["cells"])


def test_known_cells_stand_where_the_paper_has_them():
    # arXiv:2410.03765, Table 1: LLaMA-7B, 20 %, WikiText-2.
    table = papers.read("basis_sharing_1")
    cells = {(r["label"], r["printed_ratio"]): r["cells"][0] for r in table.rows}
    assert cells["Original", "0%"] == "5.68"
    assert cells["SVD-LLM", "20%"] == "7.94"
    assert cells["Basis Sharing", "20%"] == "7.74"


@pytest.mark.parametrize("name", ["basis_sharing_1", "svd_llm_1", "lowrankarena"])
def test_printed_means_are_those_of_the_printed_cells(name):
    # A wrong cell or a wrong list of tasks would show; prints have two digits or three.
    table = papers.read(name)
    headings = [column["name"] for column in table.columns]
    checked = 0
    for column in table.columns:
        for one in table.rows if "mean_of" in column else ():
            cells = [one["cells"][headings.index(part)] for part in column["mean_of"]]
            mean = one["cells"][headings.index(column["name"])]
            if mean is not None and None not in cells:
                assert float(mean) == pytest.approx(
                    sum(map(float, cells)) / len(cells), abs=0.0105
                )
                checked += 1
    assert checked > 4


def test_contradicting_sources_stand_side_by_side():
    table = papers.read("user_reproductions")
    same = [
        (r["cells"][0], table.sources[r["source"]])
        for r in table.rows
        if (r["printed_model"], r["label"]) == ("LLaMA2-7B", "SVD-LLM (W)")
        and r["printed_ratio"] == "20%"
    ]
    assert {value for value, _ in same} >= {"8.4544", "8.38", "8.2531"}
    assert len({source for _, source in same}) > 1


@pytest.mark.parametrize("name", papers.names())
def test_every_packaged_table_prints_in_every_format(stored, name):
    table = paper_table(stored, papers.read(name), known=[])
    assert table.verdicts()[NOT_RUN] > 0  # nothing of it is in this store
    for form in ("rich", "md", "latex", "csv", "html"):
        assert len(render(table, form)) > 100


def test_published_numbers_equal_the_research_file(shared_data):
    file = shared_data.parent / "research" / "published_tables.csv"
    if not file.is_file():
        pytest.skip("the collected numbers are not here")
    with file.open(newline="") as lines:
        collected = [r["value"] for r in csv.DictReader(lines)]
    packaged = [
        cell
        for name in papers.names()
        for r in papers.read(name).rows
        for cell in r["cells"]
        if cell is not None
    ]
    for value in packaged:
        collected.remove(value)  # each stands there as often as it is packaged
    assert len(packaged) > 2000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is no mapping"),
        ("a: [", "is no YAML"),
        ("titl: x", "Did you mean 'title'"),
        ("title: x\ncolumns: [{nme: a}]\nrows: [{}]", "Did you mean 'name'"),
        ("title: x\ncolumns: [{name: a}]\nrows: [{cells: ['1', '2']}]", "has 2 cells"),
        ("title: x\ncolumns: [{name: a, mean_of: [b]}]\nrows: [{}]", "no column 'b'"),
    ],
)
def test_a_yaml_of_ones_own_is_checked(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(StoreError, match=message):
        papers.read(str(tmp_path / "mine.yaml"))


def test_a_yaml_of_ones_own_is_a_table(stored, tmp_path):
    mine = {
        "title": "Mine",
        "columns": [
            {"name": "acc", "task": "digits", "metric": "accuracy", "goal": "max"}
        ],
        "rows": [{"label": "svd", "model": "mlp", "method": "svd", "ratio": 0.2}],
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(mine))
    table = paper_table(stored, papers.read(str(path)))
    assert table.rows[0].cells[0].seeds == 3


def test_an_unknown_paper_offers_the_nearest():
    with pytest.raises(StoreError, match="Did you mean 'basis_sharing_1'"):
        papers.read("basis_sharing_11")


def test_the_catalogue_lists_every_table():
    rows = papers.catalogue()
    assert [r["table"] for r in rows] == papers.names()
    assert sum(r["numbers"] for r in rows) > 2000


def test_the_models_file_maps_names_to_lists():
    folder = Path(papers.__file__).parent
    models = yaml.safe_load((folder / "_models.yaml").read_text())
    assert "jeffwan/llama-7b-hf" in papers.model_ids("llama-7b")
    assert all(isinstance(ids, list) for ids in models.values())

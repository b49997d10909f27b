"""The packaged tables of papers, and custom tables from YAML files."""

import csv
from pathlib import Path

import pytest
import yaml
from synthetic import row

from results.errors import StoreError
from results.tables import published
from results.tables.cells import NOT_RUN
from results.tables.paper import paper_table
from results.tables.render import render


def test_at_least_the_promised_tables_are_packaged():
    promised = {f"basis_sharing_{i}" for i in range(1, 9)}
    promised |= {"svd_llm_1", "svd_llm_2", "svd_llm_v2_2", "d_rank_3", "slicegpt_1"}
    promised |= {"lowrankarena", "sb_gru_1", "dropback_claims", "data_free_claims"}
    promised |= {"class_exclusion_claims", "tpp_1", "network_slimming", "hrank"}
    promised |= {"hrankplus", "depgraph_resnet56", "depgraph_vgg19"}
    assert published.names() == sorted(published.names())
    promised |= {"variational_dropout", "bayesian_compression", "branchynet_1"}
    assert promised <= set(published.names())


@pytest.mark.parametrize("name", published.names())
def test_a_packaged_table_is_whole(name):
    table = published.read(name)
    assert table.paper
    assert table.sources
    assert table.table
    for number, one in enumerate(table.rows):
        assert len(one["cells"]) == len(table.columns), number
        assert all(c is None or isinstance(c, str) for c in one["cells"])
        assert any(c is not None for c in one["cells"])


def test_known_cells_stand_where_the_paper_has_them():
    # arXiv:2410.03765, Table 1: LLaMA-7B, 20 %, WikiText-2.
    table = published.read("basis_sharing_1")
    cells = {(r["label"], r["printed_ratio"]): r["cells"][0] for r in table.rows}
    assert cells["Original", "0%"] == "5.68"
    assert cells["SVD-LLM", "20%"] == "7.94"
    assert cells["Basis Sharing", "20%"] == "7.74"


@pytest.mark.parametrize("name", ["basis_sharing_1", "svd_llm_1", "lowrankarena"])
def test_printed_means_are_those_of_the_printed_cells(name):
    # A wrong cell or a wrong list of tasks would show; prints have two digits or three.
    table = published.read(name)
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
    table = published.read("user_reproductions")
    same = [
        (r["cells"][0], table.sources[r["source"]])
        for r in table.rows
        if (r["printed_model"], r["label"]) == ("LLaMA2-7B", "SVD-LLM (W)")
        and r["printed_ratio"] == "20%"
    ]
    assert {value for value, _ in same} >= {"8.4544", "8.38", "8.2531"}
    assert len({source for _, source in same}) > 1


@pytest.mark.parametrize("name", published.names())
def test_every_packaged_table_prints_in_every_format(stored, name):
    table = paper_table(stored, published.read(name), known=[])
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
        for name in published.names()
        for r in published.read(name).rows
        for cell in r["cells"]
        if cell is not None
    ]
    for value in packaged:
        collected.remove(value)  # each stands there as often as it is packaged
    assert len(packaged) > 2000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is not a mapping"),
        ("a: [", "is not YAML"),
        ("titl: x", "Did you mean 'title'"),
        ("title: x\ncolumns: [{nme: a}]\nrows: [{}]", "Did you mean 'name'"),
        ("title: x\ncolumns: [{name: a}]\nrows: [{cells: ['1', '2']}]", "has 2 cells"),
        (
            "title: x\ncolumns: [{name: a, mean_of: [b]}]\nrows: [{}]",
            "no measured column 'b'",
        ),
        (
            "title: x\ncolumns: [{name: a, goal: maximize}]\nrows: [{}]",
            "goal is 'maximize', not min or max",
        ),
        (
            "title: x\ncolumns: [{name: a}]\nrows: [{cells: ['90,3']}]",
            "row 1: '90,3' has a comma",
        ),
        (
            "title: x\ncolumns: [{name: a}, {goal: up}]\nrows: [{}, {cells: ['1']}]",
            "row 2 has 1 cells, not 2 as there are columns(.|\\n)*"
            "column 2: goal is 'up'(.|\\n)*column 2 has no name",
        ),
        ("title: x\ncolumns: [{name: a}, {nme: b}]\nrows: [{}]", "column 2.*'nme'"),
        ("title: x\ncolumns: [{name: a}]\nrows: [{ratio: .inf}]", "ratio is inf, not"),
        ("title: x\ncolumns: [{name: a}]\nrows: [{ratio: true}]", "ratio is True, not"),
        ("title: [x]\ncolumns: [{name: a}]\nrows: [{}]", r"title is \['x'\], not"),
        (
            "title: x\nsources: [a, [b]]\ncolumns: [{name: a}]\nrows: [{}]",
            r"sources is \['a', \['b'\]\], not",
        ),
    ],
)
def test_a_yaml_of_ones_own_is_checked(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(StoreError, match=message):
        published.read(str(tmp_path / "mine.yaml"))


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
    table = paper_table(stored, published.read(str(path)))
    assert table.rows[0].cells[0].seeds == 3


def test_a_row_without_an_option_is_not_measured_by_the_system_of_another_row(empty):
    # Which of the two stored systems has no variant is told by the row that names one.
    for name, options, value in (
        ("plain", '{"variant":"plain"}', 40.0),
        ("full", '{"kl_weight":0.1}', 30.0),
    ):
        made = row(name, method="sb_gru", method_options=options, ratio=0.25)
        made |= {"model": "gru_seq2seq", "task": "phoenix2014t"}
        made["measurements"] = [{"metric": "bleu4", "value": value, "goal": "max"}]
        empty.append(made)

    table = paper_table(empty, published.read("sb_gru_1"))
    found = {
        one.labels[0]: cell.measured
        for one in table.rows
        for cell, name in zip(one.cells, table.columns, strict=True)
        if name == "test BLEU-4"
    }
    assert found["SB-GRU"] == 30
    assert found["GRU_bp"] is None


def test_an_option_that_a_column_names_has_its_default_in_the_others(stored, tmp_path):
    path = tmp_path / "mine.yaml"
    column = "model: mlp, task: digits, metric: accuracy"
    path.write_text(
        "title: mine\n"
        f"columns:\n  - {{name: four, {column}, options: {{bits: 4}}}}\n"
        f"  - {{name: default, {column}}}\n"
        "rows:\n  - {label: it, method: gptq, ratio: 0.2, options: {act_order: true}}\n"
        "  - {label: other, method: gptq, ratio: 0.2}\n"
    )
    first, second = published.read(str(path)).rows
    assert first["options"] == {"bits": None, "act_order": True}
    assert second["options"] == {"bits": None, "act_order": None}


def test_an_unknown_paper_offers_the_nearest():
    with pytest.raises(StoreError, match="Did you mean 'basis_sharing_1'"):
        published.read("basis_sharing_11")


def test_the_models_file_maps_names_to_lists():
    folder = Path(published.__file__).parents[1] / "papers"
    models = yaml.safe_load((folder / "_models.yaml").read_text())
    assert "jeffwan/llama-7b-hf" in published.model_ids("llama-7b")
    assert all(isinstance(ids, list) for ids in models.values())


def test_a_cell_is_unplanned_only_if_every_key_of_an_entry_fits():
    entry = {"method": ["svd"], "ratio": [0.2, 0.4], "why": "no weights"}
    table = published.PaperTable(
        name="t", title="T", columns=[], rows=[], unplanned=[entry]
    )

    assert table.excuse({"method": "svd", "ratio": 0.4, "model": "a"}) is entry
    assert table.excuse({"method": "svd", "ratio": 0.6}) is None
    assert table.excuse({"method": "dense", "ratio": 0.2}) is None


def test_a_mean_is_planned_if_all_its_parts_are():
    table = published.PaperTable(
        name="t",
        title="T",
        columns=[
            {"name": "a", "task": "x"},
            {"name": "b", "task": "y"},
            {"name": "mean", "mean_of": ["a", "b"]},
        ],
        rows=[{"method": "svd", "cells": ["1", None, "2"]}],
        unplanned=[{"task": ["y"], "why": "no data"}],
    )
    # The cell of b is empty; the mean needs it.
    found = [(wanted["name"], why) for wanted, why in table.printed()]
    assert found == [("a", None), ("mean", "no data")]

"""The public Python API: what a notebook calls."""

import builtins

import pytest
import torch

import shrinkgrid as sg
from harness.registry import find
from harness.toolkit import saved_model

GRID = {
    "models": ["toy"],
    "methods": ["dense", "toy_drop"],
    "ratios": [0.25, 0.5],
    "tasks": ["toy_sum"],
}
# The weights of the toy model are 1 to 32; toy_drop zeroes the first share of them:
# 528 in all, less 1 + ... + 8 = 36, less 1 + ... + 16 = 136.
TOTALS = {"ratio": [0.0, 0.25, 0.5], "value": [528.0, 492.0, 392.0]}


@pytest.fixture
def results(tmp_path, toys) -> sg.Results:
    done = sg.run(GRID, tmp_path / "store", address="inline")
    assert done.ok
    return done.results


def test_a_plan_lists_each_trial_and_runs_nothing(tmp_path, toys):
    rows = sg.plan(GRID, tmp_path / "store")

    assert [(r["state"], r["method"], r["ratio"]) for r in rows] == [
        ("run", "dense", 0.0),
        ("run", "toy_drop", 0.25),
        ("run", "toy_drop", 0.5),
    ]
    assert not (tmp_path / "store").exists()


def test_a_run_stores_every_trial_and_a_second_one_has_nothing_to_do(tmp_path, toys):
    first = sg.run(GRID, tmp_path / "store", address="inline")
    again = sg.run(GRID, tmp_path / "store", address="inline")

    assert (first.counts, first.stopped, first.ok) == ({"ok": 3}, None, True)
    assert (again.counts, again.ok) == ({}, True)
    assert [r["state"] for r in sg.plan(GRID, tmp_path / "store")] == ["done"] * 3


def test_a_failed_trial_makes_the_run_not_ok(tmp_path, toys):
    grid = {**GRID, "methods": ["toy_trouble"]}

    done = sg.run(grid, tmp_path / "store", address="inline")

    assert not done.ok
    assert done.counts == {"ok": 1, "failed": 1}


def test_a_grid_may_be_a_file(tmp_path, toys):
    path = tmp_path / "mine.yaml"
    path.write_text("models: [toy]\nmethods: [dense]\ntasks: [toy_sum]\n")

    assert [r["method"] for r in sg.plan(path, tmp_path / "store")] == ["dense"]


def test_rows_are_dictionaries_and_data_frames_of_equal_content(results):
    rows = results.sql("SELECT ratio, value FROM scores ORDER BY ratio")

    assert len(rows) == 3
    assert rows.columns == ("ratio", "value")
    assert rows[1] == {"ratio": 0.25, "value": 492.0}
    assert [list(row.values()) for row in rows] == list(
        map(list, zip(*TOTALS.values(), strict=True))
    )
    assert rows.df().to_dict("list") == TOTALS
    assert rows.arrow().to_pydict() == TOTALS


def test_polars_gets_the_same_rows_or_says_how_to_install_it(results):
    rows = results.sql("SELECT ratio FROM scores ORDER BY ratio")
    try:
        import polars
    except ModuleNotFoundError:
        with pytest.raises(sg.Error, match="pip install polars"):
            rows.pl()
    else:
        assert isinstance(rows.pl(), polars.DataFrame)
        assert rows.pl()["ratio"].to_list() == TOTALS["ratio"]


def test_no_rows_keep_their_columns(results):
    none = results.sql("SELECT ratio, method FROM scores WHERE ratio > 1")

    assert none.arrow().column_names == ["ratio", "method"]
    assert list(none.df().columns) == ["ratio", "method"]
    assert "<th>ratio</th>" in none._repr_html_()


def test_the_leaderboard_takes_one_name_or_several(results):
    one = results.leaderboard(method="toy_drop")
    two = results.leaderboard(method=["dense", "toy_drop"], task="toy_sum")

    assert {row["method"] for row in one} == {"toy_drop"}
    assert (two[0]["method"], two[0]["ratio"]) == ("dense", 0.0)
    with pytest.raises(sg.Error, match="toy_drop"):
        results.leaderboard(method="toy_drip")


def test_a_notebook_shows_text_and_never_runs_it(results):
    shown = results.sql(
        "SELECT '<script>' AS a, 1.23456789::DOUBLE AS \"<b>\""
    )._repr_html_()

    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;" in shown
    assert "1.235" in shown


def test_long_results_say_how_many_rows_are_not_shown(results):
    rows = results.sql("SELECT * FROM range(1000)")

    assert "... and 940 more rows" in repr(rows)
    assert "... and 940 more rows" in rows._repr_html_()
    assert rows.df().shape == (1000, 1)


def test_trials_are_one_row_each_and_the_store_counts_them(results):
    assert len(results.trials()) == 3
    assert repr(results) == f"<shrinkgrid store {results.uri}: 3 ok>"


def test_a_papers_table_has_its_cells_as_rows_and_its_layout_as_text(results):
    table = results.table("sb_gru_1")

    assert {"published", "measured", "verdict"} <= set(table.columns)
    assert table.render("md") == repr(table)
    assert "<table" in table._repr_html_()


def test_errors_say_what_to_do(tmp_path, toys):
    with pytest.raises(sg.Error, match="nowhere"):
        sg.open(tmp_path / "nowhere")
    with pytest.raises(sg.Error, match="toy_drop"):
        sg.plan({**GRID, "methods": ["toy_drip"]}, tmp_path / "store")
    with pytest.raises(sg.Error, match=r"structure\.json"):
        sg.load_model(tmp_path)


def test_a_saved_network_loads_to_equal_outputs(tmp_path):
    shape = find("task", "digits").build({"limit": 200}).data().shape
    made = find("model", "mlp").build({}).build(shape, 0)
    origin = {"model": "mlp", "options": {}, "revision": "", "shape": shape}
    saved_model.save(made, origin, tmp_path)

    again = sg.load_model(tmp_path)

    x = made.example()
    with torch.inference_mode():
        assert torch.equal(again.net(**x), made.net.eval()(**x))


def test_open_does_not_hide_the_builtin_from_other_modules():
    assert builtins.open is not sg.open

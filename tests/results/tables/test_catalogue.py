"""How many cells of the packaged tables are planned and measured, at what cost."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from synthetic import row

from results.tables import catalogue, published


def test_a_cell_is_measured_where_the_store_has_a_number(empty):
    none = catalogue.catalogue(empty)
    assert [one["table"] for one in none] == published.names()
    assert sum(one["cells"] for one in none) > 2000
    assert sum(one["measured"] for one in none) == 0

    model = "LLaMA2-7B (as labelled in the README)"
    columns = {"method": "dense", "task": "wikitext2-2048", "ratio": 0.0}
    empty.append(row("t", model=model, measured={"perplexity": 5.0}, **columns))
    some = {one["table"]: one for one in catalogue.catalogue(empty)}

    assert some["adasvd_1"]["measured"] == 1
    assert some["adasvd_1"]["cells"] == 144
    assert sum(one["measured"] for one in some.values()) == 1


def test_a_table_names_what_the_grids_that_fill_it_take(empty):
    rows = {one["table"]: one for one in catalogue.catalogue(empty)}
    path = files("results") / "papers/forecasts.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    named = {grid for one in rows.values() for grid in one["grids"].split(", ") if grid}
    assert known.keys() == named  # written by `python benchmarks/forecasts.py --write`

    one, both = rows["d_rank_2"], rows["svd_llm_4"]
    assert [one["hours"], one["hours_high"]] == known["d_rank"]["hours"][1:]
    assert both["grids"] == "svd_llm, basis_sharing"
    each = [known[grid]["hours"][1] for grid in ("svd_llm", "basis_sharing")]
    assert both["hours"] == pytest.approx(sum(each))
    assert rows["tpp_1"]["hours"] is None  # no grid plans a cell of it


def test_hours_of_grids_are_added_up_unless_one_has_no_forecast(monkeypatch):
    known = {
        "a": {"hours": [0.1, 1.2345, 2.3456], "gpus": "H100"},
        "b": {"hours": [0.1, 1.0, 3.0], "gpus": "T4"},
        "c": {"why": "no node has that"},
    }
    monkeypatch.setattr(catalogue, "_forecasts", lambda: known)

    both = {"hours": 2.23, "hours_high": 5.35, "gpus": "H100, T4"}
    assert catalogue.cost(["a", "b"]) == both
    none = {"hours": None, "hours_high": None}
    assert catalogue.cost(["a", "c"]) == none | {"gpus": "no forecast"}
    assert catalogue.cost([]) == none | {"gpus": None}


@pytest.mark.slow
def test_the_forecasts_are_those_of_plan():
    path = files("results") / "papers/forecasts.json"
    _, hours, _ = json.loads(path.read_text(encoding="utf-8"))["d_rank"]["hours"]
    folder = Path(__file__).parents[3] / "benchmarks"
    code = "import forecasts; print(*forecasts.of_grid('d_rank')['hours'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    # Predictors are improved, and the file is written again when they say another time.
    assert float(done.stdout.split()[1]) == pytest.approx(hours, rel=0.5)

"""Numbers that should never have been stored are left out, with a warning."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import row

from results.boards import figures, leaderboard, report
from results.boards.mean_ranks import over_boards
from results.queries.db import ask
from results.schema import arrow
from results.tables import custom
from results.tables.paper import paper_table
from results.tables.published import read
from results.tables.render import FORMATS, render


@pytest.fixture
def foreign(empty):
    """A function that stores a row as another program would: without any check."""

    def store(trial: str, *measured: dict | None, **columns):
        one = row(trial, **columns) | {"schema_version": 1, "measurements": measured}
        table = pa.Table.from_pylist([one | columns], schema=arrow("trials"))
        path = empty.folder.local / "trials" / f"{trial}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path)
        return empty

    empty.append(row("dense", method="dense", ratio=0.0, measured={"accuracy": 0.8}))
    empty.append(row("good", method="good", measured={"accuracy": 0.6}))
    return store


def _accuracy(value, **more):
    return {"metric": "accuracy", "value": value, "goal": "max", **more}


BAD = {
    "not a number": [_accuracy(math.nan)],
    "not a number ": [_accuracy(-math.inf)],
    "not a number  ": [_accuracy(None)],
    "too large": [_accuracy(-1e308)],
    "no label": [_accuracy(0.5) | {"metric": None}],
    "measured twice": [_accuracy(0.9), _accuracy(0.95)],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_number_is_left_out_with_its_reason(foreign, reason):
    store = foreign("bad", *BAD[reason])
    found = {one["method"]: one["mean"] for one in leaderboard.read(store).dicts()}
    assert found == {"dense": 0.8, "good": 0.6}
    listed = ask(store, "SELECT trial, reason FROM left_out").rows
    assert set(listed) == {("bad", reason.strip())}
    assert ask(store, "SELECT count(*) FROM scores").rows == [(2,)]
    assert reason.strip() in store.warnings[0]


@pytest.mark.parametrize("stderr", [-0.1, math.nan, math.inf, 1e300])
def test_a_number_with_a_bad_standard_error_is_shown_without_it(foreign, stderr):
    store = foreign("bad", _accuracy(0.7, stderr=stderr))
    found = {one["method"]: one for one in leaderboard.read(store).dicts()}
    assert found["svd"]["mean"] == 0.7
    assert found["svd"]["stderr"] is None
    assert "1 stderr unusable" in store.warnings[0]


def test_a_training_curve_is_not_measured_twice(foreign):
    curve = [_accuracy(0.1 * i, step=i) for i in range(3)]
    store = foreign("curve", *curve, _accuracy(0.5))
    assert ask(store, "FROM left_out").rows == []
    assert store.warnings == []
    assert "svd" in {one["method"] for one in leaderboard.read(store).dicts()}


DAMAGED: list[dict] = [
    {"method": None},
    {"method_options": "not JSON"},
    {"task_options": "[1]"},
    {"protocol_fields": "{"},
    {"calibration": "{"},
    {"dtype": None, "protocol": None, "model_options": None},
    {"ratio": math.nan},
    {"ratio": None, "achieved_ratio": math.inf},
    {"seconds": math.nan, "params": -5, "bytes": 0, "macs": 2**63 - 1},
    {"measurements": None},
    {"measurements": [None]},
    {"measurements": [_accuracy(1e308), _accuracy(math.nan)]},
    {"measurements": [{"metric": None, "value": 0.5, "goal": None}]},
]


@pytest.mark.parametrize("columns", DAMAGED, ids=str)
def test_a_damaged_row_ends_no_ranking(foreign, columns):
    answer = leaderboard.read(foreign("bad", _accuracy(0.7), **columns))
    leaderboard.boards(leaderboard.listed(answer))
    together = leaderboard.together(answer)
    leaderboard.boards(leaderboard.listed(together, mixed=True))
    over_boards(answer, allow_unequal=True)
    assert "good" in {one["method"] for one in answer.dicts()}


def test_damaged_rows_end_no_table_figure_or_page(foreign, monkeypatch):
    from results.queries import restricted

    monkeypatch.setattr(
        custom, "query", lambda store, sql, **_: restricted.select(store, sql)
    )
    for number, columns in enumerate(DAMAGED):
        own_name = {"method": f"damaged{number}"}  # a cell of its own
        store = foreign(f"bad{number}", _accuracy(0.7), **(own_name | columns))
    own = custom.custom_table(
        store, rows=["method"], cols=["ratio"], metric="accuracy", allow_mixed=True
    )
    paper = paper_table(store, read("hrank"), every_model="mlp")
    for table in (own, paper):
        for form in FORMATS:
            render(table, form)
    rows = leaderboard.read(store).dicts()
    figures.draw("pareto", [one | {"params": 5} for one in rows])
    assert "good" in report.page(store)


def test_trials_that_newer_ones_replace_are_mentioned(empty):
    for model in "abcd":
        for minute, revision in enumerate(("old", "new")):
            trial, changed = f"{model}-{revision}", {"model_revision": revision}
            empty.append(row(trial, model=model, minute=minute, **changed))
    leaderboard.read(empty)
    (warning,) = empty.warnings
    assert "1 of a, 1 of b, 1 of c and 1 more; rankings" in warning
    listed = ask(empty, "SELECT trial, model_revision FROM superseded ORDER BY ALL")
    assert listed.rows == [(f"{model}-old", "old") for model in "abcd"]
    leaderboard.read(empty)
    assert empty.warnings == [warning]


def test_of_models_whose_trials_were_replaced_three_are_named(empty):
    from results.queries import left_out

    for model in ("a", "b", "c", "d"):
        for minute, version in ((0, 1), (1, 2)):
            known = {"model": [{"name": model, "version": version, "options": {}}]}
            empty.append(
                row(
                    f"{model}{version}",
                    model=model,
                    minute=minute,
                    identity=json.dumps(known | {"dtype": "float32"}),
                )
            )
    counts = ask(
        empty, "SELECT model, count(*) FROM superseded GROUP BY ALL ORDER BY ALL"
    ).rows
    assert counts == [(model, 1) for model in "abcd"]

    left_out.warn(empty)
    left_out.warn(empty)  # said once

    (warning,) = empty.warnings
    assert "changed: 1 of a, 1 of b, 1 of c and 1 more; rankings" in warning

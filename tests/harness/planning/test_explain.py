"""`why` explains every stored trial, also one whose identity is damaged."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import row

from harness.core import BenchError
from harness.planning.explain import explain
from results.schema import arrow
from results.storage.store import open_store


@pytest.mark.parametrize("identity", [None, "{}", "[1]", "not JSON", '{"method": 5}'])
def test_a_stored_identity_without_fields_is_explained(tmp_path, identity):
    store = open_store(tmp_path / "store", create=True)
    store.append(row("good", identity='{"ratio": 0.2}'))
    store.append(row("bad", identity=identity, started_at=None))
    planned = {"plan": "p", "trial": "missing", "identity": identity}
    store.record_plan([planned])
    without_id = row("x") | {"trial": None, "schema_version": 1}
    table = pa.Table.from_pylist([without_id], schema=arrow("trials"))
    pq.write_table(table, tmp_path / "store" / "trials" / "x.parquet")

    head, attempt, _ = explain("bad", None, store)
    assert head == "trial bad: ? on ?, ?, ratio ?"
    assert attempt == "  at an unknown time ok"
    assert "it will run" in list(explain("missing", None, store))[1]


def identity(method: str, ratio: float, **more) -> str:
    return json.dumps({"method": [{"name": method}], "ratio": ratio} | more)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store", create=True)


def test_a_trial_without_an_attempt_is_compared_with_the_nearest_finished_one(store):
    wanted = {"plan": "p", "trial": "wanted", "identity": identity("svd", 0.4)}
    store.record_plan([wanted])
    first, head = list(explain("wanted", None, store)), "trial wanted: svd on ?, ?, "
    assert first == [
        f"{head}ratio 0.4",
        "it will run: the store has no attempt of it",
        "the store has no finished trial to compare it with",
    ]
    # One equal field, none, and (in a failed trial, which does not count) both.
    store.append(row("near", identity=identity("svd", 0.2)))
    store.append(row("far", identity=identity("wanda", 0.6)))
    store.append(row("failed", status="failed", identity=identity("svd", 0.4)))

    assert list(explain("wanted", None, store))[2:] == [
        "nearest finished trial near differs in ratio: 0.2 there, 0.4 here"
    ]


def test_a_field_that_only_the_finished_trial_has_is_named_too(store):
    store.record_plan([{"plan": "p", "trial": "w", "identity": identity("svd", 0.4)}])
    store.append(row("done", identity=identity("svd", 0.4, dtype="float16")))

    assert list(explain("w", None, store))[2:] == [
        "nearest finished trial done differs in dtype: float16 there, nothing here"
    ]


def test_a_finished_attempt_counts_though_a_later_one_failed(store):
    store.append(row("t", minute=0, status="failed", reason="lost a file"))
    store.append(row("t", minute=1))
    store.append(row("t", minute=2, status="timed_out"))
    store.append(row("u", minute=0, status="failed"))
    store.append(row("u", minute=1, status="timed_out"))

    assert list(explain("t", None, store))[1:] == [
        "  2026-01-01 12:00:00 failed: lost a file",
        "  2026-01-01 12:01:00 ok",
        "  2026-01-01 12:02:00 timed_out",
        "it will not run: it is finished",
    ]
    assert list(explain("u", None, store))[-1] == "it runs only with --retry timeout"


def test_the_beginning_of_an_id_must_fit_one_trial(store):
    for trial in ("a7", "a3", "a9", "a1", "a5", "a8", "b1"):
        store.append(row(trial, identity=identity("svd", 0.2)))

    def said(trial: str, grid: str | None = None) -> str:
        with pytest.raises(BenchError) as caught:
            list(explain(trial, grid, store))
        return str(caught.value)

    assert said("a") == "6 trials begin with 'a': a1, a3, a5, a7, a8 ..."
    assert next(explain("b", None, store)).startswith("trial b1: svd")
    assert said("c").startswith("no trial begins with 'c' in the store's plans")
    assert said("z", "quickstart").startswith("no trial of quickstart begins")

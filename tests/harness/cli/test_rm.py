"""`rm`, as a user types it."""

import pytest
from synthetic import grid

from harness.cli import _status
from results.queries.db import ask
from results.storage import leases


@pytest.fixture
def store(tmp_path):
    return grid(tmp_path / "store")


@pytest.fixture
def type_(store, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")

    def types(*words):
        capsys.readouterr()
        status = _status(["rm", *words, "--store", store.uri])
        return status, *capsys.readouterr()

    return types


def _count(store, where="true"):
    return ask(store, f"SELECT count(*) FROM newest WHERE {where}").rows[0][0]


def test_without_apply_it_only_lists(type_, store):
    before = _count(store)

    status, out, _ = type_("--where", "method = 'magnitude' AND ratio > 0.3")

    assert status == 0
    assert "mlp-magnitude-0.4-0" in out
    assert "svd" not in out
    assert "8 trials would be removed (--apply does it)" in out
    assert _count(store) == before


def test_apply_removes_what_was_listed(type_, store):
    others = _count(store, "method <> 'magnitude'")

    status, out, _ = type_("--where", "method = 'magnitude'", "--apply")

    assert status == 0
    assert "12 trials removed" in out
    assert _count(store) == others == _count(store, "method <> 'magnitude'")


def test_a_grid_goes_with_its_plan(type_, store):
    status, out, _ = type_("--grid", "synthetic", "--apply")

    assert status == 0
    assert "... and " in out
    assert _count(store) == 0
    assert ask(store, "SELECT count(*) FROM plans").rows == [(0,)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say which trials: --grid GRID, --where EXPR, or both"),
        (("--grid", "synthetik"), "Did you mean 'synthetic'?"),
        (("--where", "method = 'wanda'"), "no trial fits --where"),
        (("--where", "methd = 'svd'"), "methd"),
    ],
)
def test_what_names_no_trial_is_told(type_, words, said):
    status, _, err = type_(*words)

    assert status == 2
    assert said in err


def test_nothing_is_removed_beside_a_run(type_, store):
    with leases.lease_job(store, "run", "run-a", [("a", "t")]):
        status, _, err = type_("--grid", "synthetic", "--apply")

    assert status == 2
    assert "a run works on" in err

"""What fits a terminal: no line is too long, no name is broken, at three widths."""

import re

import pytest
from synthetic import NOON, grid, row

from harness.cli import _status
from results.storage.store import open_store

WIDTHS = [80, 120, 200]
LONG = '{"recipe":{"batch_size":32,"epochs":8,"keep":"best","schedule":"linear"}}'


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = grid(tmp_path_factory.mktemp("terminal") / "store")
    for method in ("dense", "class_aware_pruning"):
        ratio = 0.0 if method == "dense" else 0.5
        one = row(f"{len(method):016x}", method=method, ratio=ratio, model_options=LONG)
        made.append(one | {"grid": "another"})
    made.record_plan(
        [
            {"plan": f"p{n}", "planned_at": NOON, "grid": "another", "trial": trial}
            for n, trial in enumerate((f"{5:016x}", "nothing"))
        ]
    )
    return made


@pytest.fixture
def type_(store, monkeypatch, capsys):
    def types(width, *words):
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        status = _status([*words, "--store", store.uri])
        return status, capsys.readouterr().out

    return types


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (("status",), ["synthetic", "another", "unsupported"]),
        (("leaderboard",), ["class_aware_pruning", "recipe.schedule=linear"]),
        (("show", f"{19:016x}"), ["class_aware_pruning", "recipe.schedule=linear"]),
        (("sql", "SELECT method, model, task, ratio FROM newest"), ["smollm2-135m"]),
        (("list", "methods"), ["class_aware_pruning", "variational_dropout"]),
        (("list", "tasks"), ["wikitext2-2048-basis-sharing"]),
        (("plan", "digits_images"), ["class_aware_pruning", "digits_convnet"]),
        (("rm", "--grid", "synthetic"), ["smollm2-135m-magnitude-0.2-0"]),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else "",
)
def test_every_line_fits_and_every_name_is_whole(type_, width, words, whole):
    status, out = type_(width, *words)

    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert status == 0
    assert max(map(len, plain.splitlines())) <= width
    for name in whole:
        assert name in plain


def test_a_list_of_methods_is_a_table_at_80_columns(type_):
    _, out = type_(80, "list", "methods")

    heading, _, *rows = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert heading.split()[:2] == ["method", "what"]
    assert sum(line[:1] not in ("", " ") for line in rows) > 30


def test_status_looks_like_this_at_80_columns(type_):
    _, out = type_(80, "status")

    heading, rule, *rows = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    columns = "grid planned_at trials done running failed missing unsupported"
    assert heading.split() == columns.split()
    assert rule == "─" * 80
    assert [one.split() for one in rows] == [
        ["another", "2026-01-01", "12:00", "1", "1", "0", "0", "0", "0"],
        # 21 trials on mlp, 7 on the language model, one of them failed; one never ran
        ["synthetic", "2026-01-01", "12:00", "29", "27", "0", "1", "1", "0"],
    ]


def test_status_of_a_long_name_stays_a_table(tmp_path, monkeypatch, capsys):
    made = open_store(tmp_path / "store", create=True)
    name = "llm_compression_small"
    made.append(row("one", grid=name))
    plan = {"plan": "p", "planned_at": NOON, "grid": name, "trial": "one"}
    made.record_plan([plan])
    monkeypatch.setenv("COLUMNS", "80")
    assert _status(["status", "--store", made.uri]) == 0

    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    heading, _, line = out.splitlines()
    # The time of the plan is left out before anything else.
    columns = "grid trials done running failed missing unsupported"
    assert heading.split() == columns.split()
    assert line.split() == [name, "1", "1", "0", "0", "0", "0"]

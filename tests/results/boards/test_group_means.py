"""Means over groups of tasks: hand-worked, and no mean of what is not complete."""

import re

import pytest
from synthetic import row

from harness.planning import grid as grids
from results.boards import leaderboard
from results.boards.group_means import by_group, packaged, read_groups, table
from results.errors import StoreError
from results.text.formats import DASH

GROUPS = {"knowledge": ["x", "y"], "text": ["z"]}


def _filled(store, values):
    for (method, task), value in values.items():
        ratio = 0.0 if method == "dense" else 0.2
        store.append(
            row(
                f"{method}-{task}",
                method=method,
                task=task,
                ratio=ratio,
                measured={"accuracy": value},
            )
        )
    return leaderboard.read(store)


ALL = {
    ("dense", "x"): 0.8,
    ("dense", "y"): 0.5,
    ("dense", "z"): 0.4,
    ("a", "x"): 0.8,
    ("a", "y"): 0.4,
    ("a", "z"): 0.2,
    ("b", "x"): 0.4,
    ("b", "y"): 0.5,
    ("b", "z"): 0.4,
}


def test_groups_count_equally_whatever_their_number_of_tasks(empty):
    # Recoveries of a: 1.0 and 0.8, mean 0.9; 0.5; of both groups 0.7.
    # Of b: 0.5 and 1.0, mean 0.75; 1.0; of both 0.875, and b is first.
    found = by_group(_filled(empty, ALL), GROUPS)

    assert found.columns == ("model", "ratio", "method", "knowledge", "text") + (
        "mean",
        "lacks",
    )
    rows = found.dicts()
    assert [r["method"] for r in rows] == ["b", "a"]
    assert [r["knowledge"] for r in rows] == pytest.approx([0.75, 0.9])
    assert [r["text"] for r in rows] == pytest.approx([1.0, 0.5])
    assert [r["mean"] for r in rows] == pytest.approx([0.875, 0.7])
    assert [r["lacks"] for r in rows] == ["", ""]


def test_a_group_that_lacks_a_task_has_no_mean_and_says_which(empty):
    values = {key: v for key, v in ALL.items() if key != ("b", "y")}
    one, two = by_group(_filled(empty, values), GROUPS).dicts()

    assert (one["method"], one["mean"], one["lacks"]) == ("a", pytest.approx(0.7), "")
    assert (two["method"], two["knowledge"], two["mean"]) == ("b", None, None)
    assert two["text"] == pytest.approx(1.0)
    assert two["lacks"] == "y"


def test_without_a_dense_number_a_task_is_lacking(empty):
    values = {key: v for key, v in ALL.items() if key != ("dense", "z")}
    rows = by_group(_filled(empty, values), GROUPS).dicts()
    assert {(r["text"], r["mean"], r["lacks"]) for r in rows} == {(None, None, "z")}


def test_two_numbers_of_one_task_are_refused(empty):
    _filled(empty, ALL)
    empty.append(row("again", method="a", task="x", ratio=0.2, protocol="other"))
    empty.append(
        row("dense again", method="dense", task="x", ratio=0, protocol="other")
    )
    with pytest.raises(StoreError, match="a has two numbers for mlp on x") as refused:
        by_group(leaderboard.read(empty), GROUPS)
    assert "--protocol" in str(refused.value)


def test_a_store_without_any_of_the_tasks_is_refused(empty):
    with pytest.raises(StoreError, match="no method has a number for any of q"):
        by_group(_filled(empty, ALL), {"other": ["q"]})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: x\n", "has no groups"),
        ("groups: {a: x}\n", "a is 'x', not a list of tasks"),
        ("groups: {a: [x], b: [x]}\n", "x is in a and in b"),
        ("groups: {a: [x, x]}\n", "a names a task twice"),
        ("groups: {mean: [x]}\n", "'mean' is the name of another column"),
    ],
)
def test_a_wrong_file_says_what_to_write(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(StoreError, match=words):
        read_groups(str(path))


def test_an_unknown_name_is_told_the_packaged_ones(tmp_path):
    with pytest.raises(StoreError, match="Did you mean 'capability'"):
        read_groups("capabilty")
    with pytest.raises(StoreError, match="packaged groups are capability"):
        read_groups(str(tmp_path / "none.yaml"))


def test_the_small_groups_are_the_tasks_of_their_grid():
    path = grids.locate("llm_compression_small")
    text = path.read_text()
    names = [t for tasks in read_groups("capability_small").values() for t in tasks]
    assert packaged() == ["capability", "capability_small"]
    assert all(name in text for name in names)


def test_a_narrow_terminal_gets_a_table_without_the_model(empty, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    groups = {"knowledge of the world": ["x", "y"], "text": ["z"], "more": ["w"]}
    rows = _filled(empty, ALL)

    lines = table(by_group(rows, groups), rows).splitlines()

    assert lines[0] == "mlp, mean recovery in each group of tasks"
    assert [line.split() for line in lines if "0.2" in line] == [
        ["0.2", "a", "0.9", "0.5", DASH, DASH, "w"],
        ["0.2", "b", "0.75", "1", DASH, DASH, "w"],
    ]
    assert "--format csv" in lines[-1]


def test_methods_stand_by_their_mean_then_by_group_then_by_name(empty):
    # Recoveries of both tasks, whose mean orders: 1, then 0.75 three times, of which
    # the one with more in the first group is first, and equal ones stand by name.
    values = {("dense", "x"): 0.8, ("dense", "z"): 0.4}
    for method, x, z in (
        ("d", 0.4, 0.4), ("c", 0.4, 0.4), ("e", 0.8, 0.2), ("f", 0.8, 0.4),
        ("g", 0.72, 0.0),
    ):  # fmt: skip
        values |= {(method, "x"): x, (method, "z"): z}
    groups = {"knowledge": ["x"], "text": ["z"]}

    found = by_group(_filled(empty, values), groups).dicts()

    assert [r["method"] for r in found] == ["f", "e", "c", "d", "g"]
    assert [r["mean"] for r in found] == pytest.approx([1, 0.75, 0.75, 0.75, 0.45])


def test_a_table_of_several_models_names_them_and_shared_calibration_stands_above(
    empty, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    used = '{"samples":8}'
    for model in ("one", "two"):
        for method, value in (("dense", 0.8), ("wanda", 0.4), ("svd", 0.2)):
            ratio = 0.0 if method == "dense" else 0.2
            calibration = used if method == "wanda" else None
            empty.append(
                row(
                    f"{model}{method}",
                    model=model,
                    method=method,
                    ratio=ratio,
                    task="x",
                    calibration=calibration,
                    measured={"accuracy": value},
                )
            )
    rows = leaderboard.read(empty)
    found = by_group(rows, {"all": ["x"]})

    lines = [re.sub(r"\x1b\[[\d;]*m", "", t) for t in table(found, rows).splitlines()]

    assert lines[0] == "mean recovery in each group of tasks"
    assert lines[1] == "calibration, where a method reads it: samples=8"
    assert [line.split() for line in lines if " 0.2 " in line] == [
        ["one", "0.2", "wanda", "0.5", "0.5"],
        ["one", "0.2", "svd", "0.25", "0.25"],
        ["two", "0.2", "wanda", "0.5", "0.5"],
        ["two", "0.2", "svd", "0.25", "0.25"],
    ]
    assert "without a mean" not in lines[-1]


def test_a_file_of_groups_is_read_as_it_stands(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("groups: {b: [x, 1], a: [y]}\n")
    assert list(read_groups(str(path)).items()) == [("b", ["x", "1"]), ("a", ["y"])]
    for text, said in (
        ("[1]", "has no groups"),
        ("groups: {}", "has no groups"),
        ("groups: {a: []}", "not a list of tasks"),
        ("groups: [", "mine.yml"),
    ):
        path.write_text(text)
        with pytest.raises(StoreError, match=said):
            read_groups(str(path))


def test_the_mean_of_all_groups_orders_whatever_the_groups_say(empty):
    values = {("dense", task): 0.8 for task in "xyz"}
    # Recoveries in three groups: 1, 0.25, 0.25 and 0.25, 0.5, 0.5; means 0.5 and 0.42.
    for method, numbers in (("b", (0.8, 0.2, 0.2)), ("a", (0.2, 0.4, 0.4))):
        values |= {(method, t): v for t, v in zip("xyz", numbers, strict=True)}
    groups = {"one": ["x"], "two": ["y"], "three": ["z"]}
    rows = _filled(empty, values)
    found = by_group(rows, groups)

    assert [r["method"] for r in found.dicts()] == ["b", "a"]
    assert "without a mean" not in table(found, rows)


def test_one_method_that_lacks_a_task_is_enough_for_the_note(empty):
    values = {key: v for key, v in ALL.items() if key != ("b", "y")}
    rows = _filled(empty, values)
    assert "A method without a mean lacks tasks" in table(by_group(rows, GROUPS), rows)

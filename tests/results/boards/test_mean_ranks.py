"""Means over boards: only over equal ones, with ranks."""

import math

import pytest
from synthetic import row

from results.boards import leaderboard
from results.boards.mean_ranks import BOARD, diagrams, over_boards
from results.errors import StoreError
from results.storage.store import Store
from results.text.answer import Answer


def _store(store: Store, values: dict[tuple[str, str], float]) -> Store:
    for (method, task), value in values.items():
        store.append(
            row(
                f"{method}-{task}",
                method=method,
                task=task,
                ratio=0.0 if method == "dense" else 0.2,
                measured={"accuracy": value},
            )
        )
    return store


EQUAL = {
    ("dense", "x"): 0.8,
    ("dense", "y"): 0.5,
    ("a", "x"): 0.8,
    ("a", "y"): 0.4,
    ("b", "x"): 0.4,
    ("b", "y"): 0.5,
}


def test_the_mean_is_over_recoveries(empty):
    # a: 1.0 and 0.8, mean 0.9, error 0.1; b: 0.5 and 1.0, mean 0.75, error 0.25.
    rows = over_boards(leaderboard.read(_store(empty, EQUAL))).dicts()
    assert [r["method"] for r in rows] == ["a", "b"]
    assert [r["recovery"] for r in rows] == pytest.approx([0.9, 0.75])
    assert [r["stderr"] for r in rows] == pytest.approx([0.1, 0.25])
    assert [r["rank"] for r in rows] == [1.5, 1.5]  # each wins once
    assert [(r["ok"], r["planned"]) for r in rows] == [(2, 2), (2, 2)]


def test_a_mean_over_unequal_tasks_is_refused_unless_told(empty):
    unequal = {k: v for k, v in EQUAL.items() if k != ("b", "y")}
    answer = leaderboard.read(_store(empty, unequal))
    with pytest.raises(StoreError, match="b has no number for mlp on y") as refused:
        over_boards(answer)
    assert "--allow-unequal" in str(refused.value)
    rows = over_boards(answer, allow_unequal=True).dicts()
    assert [(r["method"], r["boards"], r["rank"]) for r in rows] == [
        ("a", 2, None),
        ("b", 1, None),
    ]


def _row(method: str, task: str, ratio: float = 0.2, **columns) -> dict:
    usual = dict.fromkeys(leaderboard_columns(), None)
    usual |= {"method_options": "{}", "dtype": "float32"}
    usual |= {"method": method, "task": task, "model": "m", "ratio": ratio}
    return usual | {"recovery": 1.0, "ok": 1, "planned": 1} | columns


def leaderboard_columns() -> tuple[str, ...]:
    return (*BOARD, "method_options", "calibration", "dtype", "ok", "planned")


def _answer(*rows: dict) -> Answer:
    columns = tuple(rows[0])
    values = [tuple(row[column] for column in columns) for row in rows]
    return Answer(columns=columns, types=("VARCHAR",) * len(columns), rows=values)


def test_ratios_are_apart_and_the_best_of_each_is_first():
    found = over_boards(
        _answer(
            _row("a", "x", 0.4, recovery=0.5),
            _row("a", "x", recovery=0.7, ok=2, planned=3),
            _row("b", "x", recovery=0.9),
            _row("dense", "x"),
            _row("c", "x", recovery=None),
        )
    ).dicts()

    assert [(r["ratio"], r["method"], r["recovery"]) for r in found] == [
        (0.2, "b", 0.9),
        (0.2, "a", 0.7),
        (0.4, "a", 0.5),
    ]
    # One board has no error and no ranks.
    assert {(r["boards"], r["stderr"], r["rank"]) for r in found} == {(1, None, None)}
    assert [(r["ok"], r["planned"]) for r in found] == [(1, 1), (2, 3), (1, 1)]


def test_the_error_of_three_boards_is_that_of_their_mean():
    values = (0.2, 0.5, 0.8)  # variance 0.09, of the mean 0.03
    rows = [_row("a", task, recovery=v) for task, v in zip("xyz", values, strict=True)]
    (found,) = over_boards(_answer(*rows)).dicts()
    assert found["stderr"] == pytest.approx(0.03**0.5)
    assert found["rank"] is None  # a method alone has none


def test_every_board_that_a_method_lacks_is_named():
    rows = [_row("a", task, r) for task in "xy" for r in (0.2, 0.4)]
    rows += [_row("b", "x"), _row("b", "y", 0.4)]
    with pytest.raises(StoreError) as refused:
        over_boards(_answer(*rows))
    assert [line.partition(" has")[0] for line in refused.value.errors[:2]] == [
        "at ratio 0.2, b",
        "at ratio 0.4, b",
    ]


def test_protocols_are_boards_of_their_own_unless_told():
    rows = [_row("a", "x", protocol="p1"), _row("b", "x", protocol="p2")]
    with pytest.raises(StoreError, match="has no number"):
        over_boards(_answer(*rows))
    found = over_boards(_answer(*rows), across_protocols=True).dicts()
    assert [r["boards"] for r in found] == [1, 1]


def test_a_diagram_ranks_the_methods_on_the_boards_that_measured_them_all(empty):
    # Three boards have a, b and c; d stands on one, and e alone on a fourth one.
    # On each board a is first, b second and c third: these are the mean ranks.
    numbers = {"a": (0.9, 0.8, 0.7), "b": (0.8, 0.7, 0.6), "c": (0.7, 0.6, 0.5)}
    points = [
        (method, f"t{i}", value)
        for method, values in numbers.items()
        for i, value in enumerate(values)
    ]
    points += [("d", "t0", 0.95), ("e", "t3", 0.5)]
    points += [("dense", f"t{i}", 1.0) for i in range(4)]
    empty.append_all(
        [
            row(
                f"{method}-{task}",
                method=method,
                task=task,
                ratio=0.0 if method == "dense" else 0.5,
                measured={"accuracy": value},
            )
            for method, task, value in points
        ]
    )

    (found,) = diagrams(empty)

    assert found["methods"] == [
        {"method": "a", "rank": 1.0},
        {"method": "b", "rank": 2.0},
        {"method": "c", "rank": 3.0},
    ]
    assert (found["ratio"], len(found["boards"])) == (0.5, 3)
    # Nemenyi: q(0.05, 3) = 2.343 (Demsar 2006, table 5), sqrt(3 * 4 / (6 * 3)).
    difference = 2.343 * (12 / 18) ** 0.5
    assert found["critical_difference"] == pytest.approx(difference, abs=1e-3)
    assert found["groups"] == [(0, 1), (1, 2)]  # only a and c are told apart
    # Friedman: chi-squared = 6 with two degrees of freedom, p = exp(-3).
    assert found["p_value"] == pytest.approx(math.exp(-3), rel=1e-6)


def test_one_board_or_one_method_has_no_diagram(empty):
    assert diagrams(empty) == []
    empty.append_all([row("d", method="dense", ratio=0.0), row("a"), row("b", seed=1)])
    assert diagrams(empty) == []


def test_across_protocols_tasks_are_still_boards_of_their_own():
    rows = [
        _row("a", t, protocol="p1", recovery=v) for t, v in (("x", 0.2), ("y", 0.6))
    ]
    rows += [_row("b", t, protocol="p2", recovery=0.8) for t in "xy"]
    found = over_boards(_answer(*rows), across_protocols=True).dicts()
    assert [(r["method"], r["boards"]) for r in found] == [("b", 2), ("a", 2)]
    assert found[1]["recovery"] == pytest.approx(0.4)


def test_boards_that_a_method_lacks_are_listed_in_order():
    rows = [_row("a", task) for task in "fbdace"] + [_row("b", "c")]
    with pytest.raises(StoreError) as refused:
        over_boards(_answer(*rows))
    lacking = [line.rpartition(" ")[2] for line in refused.value.errors[:-1]]
    assert lacking == ["a", "b", "d", "e", "f"]


def _measured(store: Store, numbers: dict[str, tuple[float, ...]]) -> Store:
    """Accuracies of each method on tasks t0, t1 ... beside a dense model of 1."""
    boards = max(map(len, numbers.values()))
    for method, values in {**numbers, "dense": (1.0,) * boards}.items():
        for i, value in reversed(list(enumerate(values))):
            store.append(
                row(
                    f"{method}-t{i}",
                    method=method,
                    task=f"t{i}",
                    ratio=0.0 if method == "dense" else 0.5,
                    measured={"accuracy": value},
                )
            )
    return store


def test_the_best_method_is_first_and_equal_ones_stand_by_name(empty):
    numbers = {"z": (0.9, 0.9), "b": (0.8, 0.5), "a": (0.5, 0.8), "c": (0.1, 0.1)}
    (found,) = diagrams(_measured(empty, numbers))

    assert [(m["method"], m["rank"]) for m in found["methods"]] == [
        ("z", 1.0),
        ("a", 2.5),
        ("b", 2.5),
        ("c", 4.0),
    ]
    assert found["boards"] == ["mlp on t0", "mlp on t1"]


@pytest.mark.parametrize("numbers", [{"a": (0.9,), "b": (0.8,)}, {"a": (0.9, 0.8)}])
def test_two_boards_and_two_methods_are_the_least_of_a_diagram(empty, numbers):
    assert diagrams(_measured(empty, numbers)) == []

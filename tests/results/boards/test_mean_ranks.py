"""Means over boards: only over equal ones, with ranks."""

import pytest
from synthetic import row

from results.boards import leaderboard
from results.boards.mean_ranks import over_boards
from results.errors import StoreError
from results.storage.store import Store


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

"""Leaderboards as the page gets them."""

from typing import Any

from synthetic import hosts, row, speeds

from results.boards import ranking
from results.storage.store import Store


def test_the_leaderboard_that_compares_most_methods_comes_first(empty):
    # One task has two methods (one of them twice), the other three; names say the
    # opposite order.
    for task, name, options in (
        ("a", "svd", "{}"),
        ("a", "svd", '{"group_size": 2}'),
        ("a", "svd", '{"group_size": 4}'),
        ("a", "magnitude", "{}"),
        ("b", "svd", "{}"),
        ("b", "magnitude", "{}"),
        ("b", "wanda", "{}"),
    ):
        trial = f"{task}{name}{options}"
        empty.append(row(trial, task=task, method=name, method_options=options))

    found = [board["task"] for board in ranking.boards(empty)]
    assert found == ["b", "a"]


def boards(store: Store) -> list[dict[str, Any]]:
    """Every board, with its rows as mappings."""
    made = ranking.boards(store)
    for one in made:
        columns = one["columns"]
        one["rows"] = [dict(zip(columns, r, strict=True)) for r in one["rows"]]
    return made


def test_rows_have_the_times_of_their_networks_and_the_dense_model_is_first(empty):
    for method, value in (("dense", 0.9), ("svd", 0.8), ("magnitude", 0.7)):
        ratio = 0.0 if method == "dense" else 0.5
        measured = {"accuracy": value}
        empty.append(row(method, method=method, ratio=ratio, measured=measured))
    # Of another ratio, better than the dense model, and not timed.
    empty.append(row("mild", method="svd", ratio=0.2, measured={"accuracy": 0.95}))
    for method, time in (("dense", 8.0), ("svd", 4.0)):
        ratio = 0.0 if method == "dense" else 0.5
        made = row(f"{method}-time", method=method, ratio=ratio, task="latency")
        made["measurements"] = [{"metric": "latency", "value": time, "goal": "min"}]
        empty.append(made)

    (found,) = (b for b in boards(empty) if b["metric"] == "accuracy")

    rows = [(r["method"], r["ratio"], r["place"], r["latency"]) for r in found["rows"]]
    assert rows == [
        ("dense", 0.0, 1, 8.0),
        ("svd", 0.2, 1, None),
        ("svd", 0.5, 1, 4.0),
        ("magnitude", 0.5, 2, None),
    ]
    assert [r["trials"] for r in found["rows"]][:2] == [["dense"], ["mild"]]
    assert found["main"]
    assert found["protocol"] == ""  # there is one


def test_times_of_two_hosts_are_shown_on_boards_of_their_own_only(empty):
    found = boards(hosts(empty))
    assert {b["protocol"] for b in found} == {"host=alpha", "host=beta"}
    assert {r["latency"] for b in found for r in b["rows"]} == {None}


def test_a_store_without_times_has_none_and_a_slower_network_is_marked(empty):
    empty.append(row("a", measured={"accuracy": 0.5, "loss": 1.0}))
    main, other = boards(empty)
    assert (main["metric"], main["main"]) == ("accuracy", True)
    assert (other["metric"], other["main"]) == ("loss", False)
    assert [r["latency"] for r in (*main["rows"], *other["rows"])] == [None, None]

    slow = [b for b in boards(speeds(empty)) if b["task"] == "digits"]
    marked = {r["method"]: r["slower"] for b in slow for r in b["rows"]}
    assert marked["magnitude"] is True
    assert marked["dense"] is False

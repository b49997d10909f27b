"""Measured times and speeds of networks, and the front against them."""

import pytest
from synthetic import hosts, row, speeds

from results.boards import costs, figures, leaderboard
from results.errors import StoreError
from results.queries.db import ask


def _timed(store):
    """Accuracies beside the latencies of two hosts; svd is both faster and worse."""
    hosts(store)
    for method, value in (("dense", 0.9), ("svd", 0.8), ("magnitude", 0.7)):
        store.append(
            row(
                f"{method}-accuracy",
                method=method,
                ratio=0.0 if method == "dense" else 0.5,
                measured={"accuracy": value},
            )
        )
    return store


def test_the_front_against_latency_is_one_a_host(empty):
    found = ask(
        _timed(empty),
        "SELECT timed, method, size FROM pareto "
        "WHERE cost = 'latency' AND metric = 'accuracy' ORDER BY timed, size",
    ).rows
    # Magnitude, timed on beta only, is slower than svd and worse.
    assert found == [
        ("at-alpha", "svd", 4.0),
        ("at-alpha", "dense", 8.0),
        ("at-beta", "svd", 8.0),
        ("at-beta", "dense", 16.0),
    ]


def test_tokens_a_second_are_a_time_a_token(empty):
    made = row("d", method="dense", ratio=0.0, task="decode")
    made["measurements"] = [{"metric": "decode_rate", "value": 50.0, "goal": "max"}]
    empty.append(made)
    # An early exit's own estimate on a task of quality is not a measured time.
    empty.append(row("e", measured={"latency": 0.001}))
    assert ask(empty, "SELECT cost, size FROM times").rows == [("decode", 20.0)]


def test_a_plot_against_latency_needs_one_protocol(empty):
    rows = leaderboard.one_board(_timed(empty), metric=["accuracy"])
    with pytest.raises(StoreError, match=r"2 protocols: at-alpha \(host=alpha\)"):
        costs.timed(empty, rows, "latency")
    with pytest.raises(StoreError, match="Did you mean 'at-beta'"):
        costs.timed(empty, rows, "latency", "at-bet")
    with pytest.raises(StoreError, match="no task measured decode"):
        costs.timed(empty, rows, "decode")
    timed = costs.timed(empty, rows, "latency", "at-beta")
    assert {r["method"]: r["latency"] for r in timed} == {
        "dense": 16.0,
        "svd": 8.0,
        "magnitude": 12.0,
    }
    svg = figures.draw("pareto", timed, cost="latency").decode()
    assert "milliseconds a batch of images" in svg


def test_one_protocol_of_a_time_needs_no_choice(empty):
    made = row("d", method="dense", ratio=0.0, task="decode", protocol="p2")
    made["measurements"] = [{"metric": "decode_rate", "value": 50.0, "goal": "max"}]
    empty.append(made)
    empty.append(row("e", method="dense", ratio=0.0))
    rows = leaderboard.one_board(empty, metric=["accuracy"])
    assert [r["decode"] for r in costs.timed(empty, rows, "decode")] == [20.0]


def test_the_front_is_what_no_row_beats_in_both():
    rows = [{"mean": m, "c": c} for m, c in ((3, 5), (1, 1), (2, 2), (2, 3), (9, 2))]
    more = costs.front(rows, "c", more=True)
    assert [(r["mean"], r["c"]) for r in more] == [(1, 1), (9, 2)]
    less = costs.front(rows, "c", more=False)
    assert [(r["mean"], r["c"]) for r in less] == [(1, 1)]


def test_the_speed_of_a_network_is_the_least_that_was_measured_of_it(empty):
    found = ask(speeds(empty), "SELECT DISTINCT method, speed FROM leaderboard").rows
    # svd: 120/100 and 48/50; magnitude: 110/100 and 40/50.
    assert dict(found) == {"dense": 1.0, "svd": 0.96, "magnitude": 0.8}


def test_the_speed_is_that_of_the_slowest_host_and_absent_where_none_was_measured(
    empty,
):
    store = _timed(empty)
    store.append(row("d", method="dense", ratio=0.0, task="cifar10"))
    store.append(row("s", method="svd", ratio=0.8))
    found = ask(store, "SELECT DISTINCT method, ratio, speed FROM leaderboard").rows
    # A time: dense/own. 8/4 and 16/8 for svd, 16/12 for magnitude.
    assert {(method, ratio): speed for method, ratio, speed in found} == {
        ("dense", 0.0): 1.0,
        ("svd", 0.5): 2.0,
        ("magnitude", 0.5): pytest.approx(4 / 3),
        ("svd", 0.8): None,
    }


def test_the_front_of_a_figure_is_that_of_the_view(stored):
    board = ask(stored, "FROM leaderboard WHERE model = 'mlp' AND main").dicts()
    rows = [one | {"stderr": None} for one in board]
    shares = costs.probabilities(rows, "params")
    ours = {
        (r["method"], r["ratio"])
        for r, share in zip(rows, shares, strict=True)
        if share == 1
    }
    view = ask(
        stored,
        "SELECT method, ratio FROM pareto WHERE model = 'mlp' AND cost = 'params' "
        "AND metric = 'accuracy'",
    )
    assert ours == set(view.rows)


def test_without_rows_there_is_no_front():
    assert costs.probabilities([], "params") == []


def test_a_row_without_an_error_is_exact_and_less_may_be_better():
    rows = [
        {"mean": m, "stderr": None, "goal": "min", "c": c}
        for m, c in ((5.0, 1), (4.0, 2), (6.0, 3))
    ]
    assert costs.probabilities(rows, "c") == [1, 1, 0]
    other = [row | {"goal": "max"} for row in rows]
    assert costs.probabilities(other, "c") == [1, 0, 1]


def test_equal_means_at_equal_costs_are_one_row_of_the_front():
    rows = [{"mean": 1, "c": 1}, {"mean": 1, "c": 1}, {"mean": 2, "c": 1}]
    assert costs.front(rows, "c", more=True) == [rows[2]]
    assert costs.front(rows[:2], "c", more=False) == rows[:1]


def test_a_standard_error_makes_the_front_a_matter_of_chance():
    rows = [{"mean": 5.0, "stderr": 1.0, "goal": "max", "c": c} for c in (1, 2)]
    cheap, dear = costs.probabilities(rows, "c")
    assert cheap == 1
    assert dear == pytest.approx(0.5, abs=0.1)  # as likely above the cheap one as below
    assert costs.probabilities(rows[:1], "c") == [1]

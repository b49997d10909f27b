"""The views over a store."""

import random
from collections import Counter

import pyarrow.parquet as pq
import pytest
from synthetic import row

from results.queries import databases
from results.queries.db import ask, connect, connected
from results.queries.messages import with_hints
from results.schema import TABLES

VIEWS = (
    "trials",
    "measurements",
    "samples",
    "plans",
    "newest",
    "superseded",
    "scores",
    "leaderboard",
    "recovery",
    "times",
    "pareto",
    "completeness",
    "failures",
    "cost",
    "steps",
)


@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_store_gives_empty_typed_views(empty, view):
    answer = ask(empty, f"FROM {view}")
    assert answer.rows == []
    assert len(answer.columns) > 2


def _dense_and(store, *, goal, dense, value):
    name = "accuracy" if goal == "max" else "perplexity"
    store.append(row("d", method="dense", ratio=0.0, measured={name: dense}))
    store.append(row("s", measured={name: value}))
    rows = ask(store, "SELECT method, recovery FROM leaderboard").rows
    return dict(rows)


def test_recovery_of_an_accuracy_is_compressed_over_dense(empty):
    assert _dense_and(empty, goal="max", dense=0.8, value=0.6) == {
        "dense": 1.0,
        "svd": pytest.approx(0.75),
    }


def test_recovery_of_a_perplexity_is_dense_over_compressed(empty):
    assert _dense_and(empty, goal="min", dense=10.0, value=12.5) == {
        "dense": 1.0,
        "svd": pytest.approx(0.8),
    }


def test_recovery_never_mixes_protocols(empty):
    empty.append(row("d", method="dense", ratio=0.0, protocol="p1"))
    empty.append(row("s", protocol="p2"))
    rows = ask(empty, "SELECT method, recovery FROM leaderboard").rows
    assert dict(rows) == {"dense": 1.0, "svd": None}


def test_the_mean_and_its_error_are_over_seeds(empty):
    # 0.8, 0.9, 1.0: mean 0.9, sample deviation 0.1, over the root of 3.
    for seed, value in enumerate((0.8, 0.9, 1.0)):
        empty.append(row(f"t{seed}", seed=seed, measured={"accuracy": value}))
    found = ask(empty, "SELECT mean, stderr, stderr_over, seeds FROM leaderboard").rows
    assert found == [
        (pytest.approx(0.9), pytest.approx(0.1 / 3**0.5), "seeds", 3),
    ]


def test_with_one_seed_the_error_is_over_samples_and_says_so(empty):
    one = row("t")
    one["measurements"][0]["stderr"] = 0.05
    empty.append(one)
    found = ask(empty, "SELECT stderr, stderr_over FROM leaderboard").rows
    assert found == [(0.05, "samples")]


def test_ties_share_a_place_and_lower_wins_where_the_goal_says_so(empty):
    for method, value in (("a", 5.0), ("b", 5.0), ("c", 4.0)):
        empty.append(row(method, method=method, measured={"perplexity": value}))
    found = ask(empty, "SELECT method, place FROM leaderboard").rows
    assert found == [("c", 1), ("a", 2), ("b", 2)]


def test_curves_and_unranked_numbers_stay_out_of_the_leaderboard(empty):
    made = row("t", measured={"accuracy": 0.9, "latency_s": 0.1})
    made["measurements"] += [
        {"metric": "accuracy", "value": 0.1, "goal": "max", "step": 1}
    ]
    empty.append(made)
    assert ask(empty, "SELECT metric, mean FROM leaderboard").rows == [
        ("accuracy", 0.9)
    ]
    assert ask(empty, "SELECT count(*) FROM measurements").rows == [(3,)]


def test_the_leaderboard_agrees_with_a_plain_count_over_random_attempts(empty):
    # The view groups by hashes and finds the newest attempt by an aggregate; here the
    # same is done row by row.
    draw = random.Random(3)
    made = [
        row(
            f"{method}-{ratio}-{seed}",
            minute=minute,
            method=method,
            ratio=ratio,
            seed=seed,
            status=draw.choice(("ok", "ok", "failed")),
            measured={"accuracy": draw.random(), "perplexity": draw.random()},
        )
        for method in ("a", "b", "dense")
        for ratio in (0.0, 0.5)
        for seed in range(3)
        for minute in range(draw.randint(1, 3))
    ]
    empty.append_all(made)
    wanted: dict[tuple, list[float]] = {}
    planned = Counter()
    for trial in {one["trial"] for one in made}:
        tries = sorted(
            (one for one in made if one["trial"] == trial),
            key=lambda one: (one["status"] == "ok", one["started_at"]),
        )
        newest = tries[-1]
        planned[newest["method"], newest["ratio"]] += 1
        for m in newest["measurements"]:
            key = (newest["method"], newest["ratio"], m["metric"])
            wanted.setdefault(key, []).append(m["value"])

    found = ask(empty, "FROM leaderboard").dicts()

    assert len(found) == len(wanted)
    for one in found:
        values = wanted[one["method"], one["ratio"], one["metric"]]
        assert one["mean"] == pytest.approx(sum(values) / len(values))
        assert one["seeds"] == len(values)
        assert one["planned"] == planned[one["method"], one["ratio"]]
        assert one["main"] == (one["metric"] == "accuracy")


def test_coverage_counts_what_was_planned_and_what_failed(stored):
    found = ask(
        stored,
        "SELECT ok, planned FROM leaderboard "
        "WHERE method = 'magnitude' AND ratio = 0.6 AND model = 'mlp'",
    ).rows
    assert found == [(2, 3)]  # seed 0 failed


def test_completeness_counts_done_failed_and_missing(stored):
    found = ask(stored, "SELECT trials, done, failed, missing FROM completeness").rows
    # mlp: 7 cells x 3 seeds, smollm2: 7; one of them failed, one more was planned.
    assert found == [(29, 27, 1, 1)]


def test_failures_say_why_and_how_often(stored):
    found = ask(stored, "SELECT trial, error_class, reason, tries FROM failures").rows
    assert found == [("mlp-magnitude-0.6-0", "bug", "ValueError: <b>no</b>", 1)]


def test_pareto_keeps_what_nothing_beats(empty):
    # (params, accuracy): b is beaten by a (same size), d by c (smaller, as good).
    points = {"a": (10, 0.9), "b": (10, 0.8), "c": (5, 0.7), "d": (7, 0.7)}
    for name, (params, value) in points.items():
        empty.append(
            row(name, method=name, params=params, measured={"accuracy": value})
        )
    found = ask(empty, "SELECT method FROM pareto WHERE cost = 'params'").rows
    assert found == [("c",), ("a",)]


def test_a_connection_has_every_view(stored):
    with connect(stored) as connection:
        for view in VIEWS:
            assert connection.execute(f"FROM {view} LIMIT 1").description


def _measured(store, value, minute, trial, **columns):
    measured = {"perplexity": value}
    store.append(row(trial, minute=minute, measured=measured, **columns))


def _means(store):
    found = ask(store, "SELECT method, mean, seeds, recovery FROM leaderboard")
    return {name: rest for name, *rest in found.rows}


def test_numbers_of_other_weights_under_the_same_name_are_not_averaged(empty):
    """The folder held other weights until the third run: 10 and 20 are not of these."""
    of = {"model": "./m", "task": "t", "ratio": 0.0}
    old, new = ({"model_revision": name, **of} for name in ("local:1", "local:2"))
    _measured(empty, 10.0, 1, "a", method="dense", **old)
    _measured(empty, 20.0, 2, "b", method="svd", **old)
    _measured(empty, 30.0, 3, "c", method="dense", **new)

    assert _means(empty) == {"dense": [30.0, 1, 1.0]}
    assert ask(empty, "SELECT value FROM scores").rows == [(30.0,)]
    assert len(ask(empty, "FROM newest").rows) == 3

    _measured(empty, 60.0, 4, "d", method="svd", **new)
    assert _means(empty) == {"dense": [30.0, 1, 1.0], "svd": [60.0, 1, 0.5]}


def test_of_two_versions_of_a_plugin_the_newer_counts(empty):
    """Their labels are equal; as two seeds they would be averaged to 15."""
    of = {"model": "m", "method": "svd", "task": "t", "ratio": 0.2, "seed": 0}
    _measured(empty, 10.0, 1, "version 1", **of)
    _measured(empty, 20.0, 2, "version 2", **of)
    _measured(empty, 40.0, 3, "another seed", **(of | {"seed": 1}))

    assert _means(empty) == {"svd": [30.0, 2, None]}
    values = ask(empty, "SELECT value FROM scores ORDER BY value").rows
    assert values == [(20.0,), (40.0,)]


@pytest.mark.parametrize("old", ["a", "b"])
def test_a_column_that_older_files_lack_is_null_in_their_rows(empty, old):
    for trial in "ab":
        empty.append(row(trial, dtype="float64"))
        path = empty.folder.local / f"trials/0000-{trial}.parquet"
        if trial == old:
            pq.write_table(pq.read_table(path).drop(["dtype"]), path)
    wanted = {"a": "float64", "b": "float64"} | {old: None}

    empty.mixed = True
    assert dict(ask(empty, "SELECT trial, dtype FROM trials").rows) == wanted


@pytest.mark.parametrize(("many", "copied"), [(2, 0), (1, 2)])
def test_of_many_small_files_the_copies_in_their_footers_are_read(
    empty, monkeypatch, many, copied
):
    read = []

    def copies(folder, paths):
        read.extend(paths)
        return found(folder, paths)

    found = databases.footers.embedded_rows
    monkeypatch.setattr(databases, "_MANY_FILES", many)
    monkeypatch.setattr(databases.footers, "embedded_rows", copies)
    for trial in "ab":
        empty.append(row(trial), [{"metric": "accuracy", "values": [1.0]}])

    assert ask(empty, "SELECT trial FROM trials ORDER BY 1").rows == [("a",), ("b",)]
    assert ask(empty, "SELECT count(*) FROM samples").rows == [(2,)]
    assert len(set(read)) == copied
    assert all(path.startswith("trials/") for path in read)


def _made_for(store, query: str) -> set[str]:
    """The views of a database that is opened for one query, which it answers."""
    made = "SELECT schema_name || '.' || view_name FROM duckdb_views() "
    with connected(store.at_this_moment(), query) as connection:
        connection.execute(query).fetchall()
        rows = connection.execute(f"{made} WHERE NOT internal").fetchall()
    return {name for (name,) in rows} - {f"stored.{table}" for table in TABLES}


@pytest.mark.parametrize("view", [*VIEWS, "left_out", "published", "comparison"])
def test_a_view_comes_with_those_that_it_reads(stored, view):
    assert f"main.{view}" in _made_for(stored, f"SELECT count(*) FROM {view}")


def test_no_view_is_made_that_a_query_does_not_read(stored):
    assert _made_for(stored, "SELECT 1") == set()
    assert _made_for(stored, "FROM trials") == {"main.trials"}
    assert "main.leaderboard" not in _made_for(stored, "FROM scores")


def test_an_error_of_a_query_says_where_it_is_and_what_was_meant():
    said = ValueError(
        'Binder Error: no column "ratoi"\n'
        'Candidate bindings: "ratio"\n\n'
        "LINE 12: SELECT ratoi FROM trials\n"
        "                ^\n"
    )
    assert with_hints(said) == (
        'Binder Error: no column "ratoi" Candidate bindings: "ratio" '
        "at line 12: ratoi FROM trials"
    )
    assert with_hints(ValueError("IO Error: no\n\nsecond line")) == "IO Error: no"
    assert with_hints(ValueError("Error\n^")) == "Error"  # points at nothing

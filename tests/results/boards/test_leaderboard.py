"""The leaderboard for a terminal: labels, protocols apart and together."""

import json
import re

import pytest
from synthetic import hosts, row, speeds

from results.boards import (
    board_rows,
    board_text,
    leaderboard,
    ranking,
)
from results.boards.mean_ranks import over_boards
from results.errors import StoreError
from results.queries import protocols
from results.queries.db import ask
from results.text.labels import label, method_label


def _plain(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def _shown(store, *, mixed, **only):
    rows = leaderboard.read(store, **only)
    rows = leaderboard.together(rows) if mixed else rows
    fields = protocols.stored(store, leaderboard.rival_protocols(rows))
    return _plain(leaderboard.boards(leaderboard.listed(rows, fields, mixed=mixed)))


def test_times_of_two_hosts_are_not_ranked_together(empty):
    text = _shown(hosts(empty), mixed=False)
    assert text.count("mlp on latency") == 2
    assert text.count("latency, lower is better") == 2
    assert "one of 2 protocols: at-alpha host=alpha" in text
    # magnitude at 12 ms on beta is second there, behind svd's 8; on alpha svd is alone
    # and gets no star.
    assert len(re.findall(r"^★ +svd", text, re.M)) == 1


def test_told_to_mix_one_board_ranks_all_and_says_in_what_they_differ(empty):
    text = _shown(hosts(empty), mixed=True)
    assert text.count("mlp on latency") == 1
    assert "2 protocols on one board, which differ in host" in text
    # Where the terminal is narrow, the mark folds to the next line.
    order = re.findall(r"(dense|svd|magnitude)[^\[]*\[host=(\w+)\]", text)
    assert order == [
        ("dense", "alpha"),
        ("dense", "beta"),
        ("svd", "alpha"),
        ("svd", "beta"),
        ("magnitude", "beta"),
    ]
    assert len(re.findall(r"^★ +svd[^\[]*\[host=alpha\]", text, re.M)) == 1


def test_places_together_are_those_of_a_plain_count(empty):
    rows = leaderboard.together(leaderboard.read(hosts(empty))).dicts()
    for one in rows:
        rivals = [r["mean"] for r in rows if r["ratio"] == one["ratio"]]
        assert one["place"] == 1 + sum(other < one["mean"] for other in rivals)


def test_a_board_says_what_the_error_of_one_seed_leaves_out(empty):
    for seed, method in ((0, "svd"), (1, "svd"), (0, "magnitude")):
        made = row(f"{method}-{seed}", method=method, ratio=0.5, seed=seed)
        made["measurements"] = [
            {"metric": "accuracy", "value": 0.5, "stderr": 0.1, "goal": "max"}
        ]
        empty.append(made)

    assert "accuracy, higher is better" in _shown(empty, mixed=False)
    assert "with one seed" in _shown(empty, mixed=False)
    assert "with one seed" not in _shown(empty, mixed=False, method=["svd"])


def test_one_protocol_can_be_chosen(empty):
    text = _shown(hosts(empty), mixed=False, protocol=["at-beta"])
    assert "16" in text
    assert "protocols" not in text
    with pytest.raises(StoreError, match="Did you mean 'at-beta'"):
        leaderboard.read(empty, protocol=["at-betta"])
    with pytest.raises(StoreError, match=r"2 protocols fit: .* --protocol"):
        leaderboard.one_board(empty, task=["latency"])


def test_a_mean_over_hosts_needs_to_be_told(empty):
    rows = leaderboard.read(hosts(empty))
    with pytest.raises(StoreError, match="magnitude has no number for mlp on latency"):
        over_boards(rows)
    assert over_boards(rows, across_protocols=True).rows


def test_a_chain_is_called_by_its_links(empty):
    chains = {
        "a": ["joint_rank_k", "wanda"],
        "b": [{"name": "svd", "ratio": 0.1}, {"name": "round_to_nearest", "bits": 8}],
    }
    for trial, links in chains.items():
        options = json.dumps({"chain": links})
        empty.append(row(trial, method="chain", method_options=options))
    rows = leaderboard.read(empty).dicts()
    assert {method_label(one) for one in rows} == {
        "joint_rank_k + wanda",
        "svd ratio=0.1 + round_to_nearest bits=8",
    }
    assert "joint_rank_k +" in _shown(empty, mixed=False)  # the rest folds


def test_rows_that_differ_in_calibration_or_dtype_have_different_names():
    base = {"method": "svd_llm", "method_options": "{}", "dtype": "float32"}
    names = {
        method_label(base | {"calibration": None}),
        method_label(base | {"calibration": '{"samples":16}'}),
        method_label(base | {"calibration": None, "dtype": "bfloat16"}),
    }
    assert names == {"svd_llm", "svd_llm samples=16", "svd_llm bfloat16"}
    assert label("", '{"samples":16}').strip() == "samples=16"


def test_a_network_that_was_measured_to_be_slower_is_marked_on_every_board(empty):
    text = _shown(speeds(empty), mixed=False)
    assert re.findall(r"(\w+)▼", text) == ["magnitude"] * 3
    assert text.count("▼ slower than the dense model by more than 5 %") == 1
    assert "▼" not in _shown(empty, mixed=False, method=["svd"])
    html = board_text.render(leaderboard.listed(leaderboard.read(empty)), "html")
    assert html.count("magnitude▼") == 3
    assert html.count("▼ slower than the dense model") == 3  # once a board


def test_the_page_marks_slower_networks(empty):
    for board in ranking.boards(speeds(empty)):
        rows = [dict(zip(board["columns"], one, strict=True)) for one in board["rows"]]
        assert {one["base"]: one["slower"] for one in rows} == {
            "dense": False,
            "svd": False,
            "magnitude": True,
        }


def test_a_line_stands_between_ratios_and_the_best_of_each_is_marked(empty):
    for method, ratio, value in (
        ("dense", 0.0, 0.9),
        ("svd", 0.2, 0.8),
        ("magnitude", 0.2, 0.7),
        ("svd", 0.5, 0.6),
    ):
        made = row(f"{method}{ratio}", method=method, ratio=ratio)
        made["measurements"] = [{"metric": "accuracy", "value": value, "goal": "max"}]
        empty.append(made)

    text = leaderboard.boards(leaderboard.listed(leaderboard.read(empty)))
    lines = text.splitlines()
    body = lines[next(i for i, line in enumerate(lines) if "─" in line) + 1 :]
    seen = [_plain(line).split() for line in body]

    # One empty line after dense and one after the two methods at 0.2, none elsewhere.
    assert [bool(words) for words in seen] == [True, False, True, True, False, True]
    assert [words[0] for words in seen if words] == ["dense", "★", "magnitude", "svd"]
    dense, best, second, only = (line for line in body if _plain(line).strip())
    assert dense.startswith("\x1b[3m")  # in italics
    assert best.startswith("\x1b[1;32m")  # bold and green
    assert not second.startswith("\x1b")
    assert not only.startswith("\x1b")  # the best of one


def test_a_calibration_that_all_share_is_said_once_above_the_rows(empty):
    a, b = '{"samples":8}', '{"samples":16}'
    empty.append(row("svd", method="svd"))
    for model, used in (("one", (a, a)), ("two", (a, b))):
        for method, calibration in zip(("wanda", "gptq"), used, strict=True):
            name = f"{model}{method}"
            empty.append(row(name, model=model, method=method, calibration=calibration))
    shown = _shown(empty, mixed=False)

    one, two = shown.split("two on digits")
    assert one.count("samples=8") == 1
    assert "calibration, where a method reads it: samples=8" in one
    assert (two.count("samples=8"), two.count("samples=16")) == (1, 1)
    assert "where a method reads it" not in two


def test_the_treated_share_stands_beside_what_was_achieved(empty):
    for trial, coverage in (("whole", 1.0), ("part", 0.129), ("none", None)):
        empty.append(row(trial, model=trial, achieved_ratio=0.2, coverage=coverage))
    shown = _shown(empty, mixed=False)

    assert shown.count("0.200") == 3
    assert shown.count("treated") == 1
    assert re.search(r"part on digits(.|\n)*?0\.200 \(12\.9% treated\)", shown)


def test_calibrations_on_texts_of_other_content_are_told_apart():
    one = {"method": "svd_llm", "method_options": "{}", "dtype": "float32"}
    one |= {"calibration": '{"content":"sha256:0123456789abcdef","samples":8}'}
    assert method_label(one) == "svd_llm text=012345 samples=8"


def identity(**fields):
    """What a trial's id hashes, as far as the leaderboard reads it."""
    model = {"name": "mlp", "version": 1, "options": fields.pop("options", {})}
    return json.dumps({"model": [model], "dtype": "float32", **fields})


def counts(store):
    found = ask(store, "SELECT calibration, dtype, ok, planned FROM leaderboard").rows
    return {(c and json.loads(c)["text"], d): f"{o}/{p}" for c, d, o, p in found}


def test_trials_count_with_those_of_their_own_calibration_dtype_and_protocol(empty):
    for text in ("a", "b"):
        empty.append(row(text, calibration=json.dumps({"samples": 8, "text": text})))
    empty.append(row("half", dtype="bfloat16"))
    empty.append(row("other protocol", protocol="p2", model_options='{"recipe":1e-05}'))
    found = ask(empty, "SELECT ok, planned FROM leaderboard").rows
    assert found == [(1, 1)] * 4


def test_only_the_newest_plan_of_a_grid_intends_trials(empty):
    # An older plan asked for other versions, which nobody will run any more.
    empty.append(row("now"))
    keys = ("method", "method_options", "model", "task", "task_options", "ratio")
    usual = {key: row("now")[key] for key in keys} | {"identity": identity()}
    for grid, minute, trials in (
        ("g", 0, ("old", "older")),
        ("g", 5, ("now", "missing")),
        ("h", 1, ("of another grid",)),
    ):
        plan = {"plan": f"{grid}{minute}", "grid": grid} | usual
        at = {"planned_at": row("x", minute=minute)["started_at"], "seed": 1}
        empty.record_plan([plan | at | {"trial": one} for one in trials])

    assert ask(empty, "SELECT ok, planned FROM leaderboard").rows == [(1, 3)]


def test_failed_lost_and_missing_trials_count_in_their_own_row_only(empty):
    a = '{"lr":1e-05,"text":"\\u00e9"}'
    empty.append(row("a0", calibration=a))
    empty.append(row("none0"))
    empty.append(row("half0", dtype="bfloat16"))
    known = {"calibration": json.loads(a)}
    empty.append(
        row("a1", seed=1, calibration=a, status="failed", identity=identity(**known))
    )
    lost = {"protocol": None, "dtype": None, "model_options": None, "ratio_of": None}
    empty.append(row("a2", status="lost", identity=identity(**known), **lost))
    # An attempt that was lost before it ended well is not a second trial.
    empty.append(row("none0", minute=-1, status="lost", identity=identity(), **lost))
    plan = {"plan": "p", "planned_at": row("x")["started_at"], "grid": "g"}
    missing = {
        "a3": identity(**known),
        "none1": identity(),
        "half1": identity(dtype="bfloat16"),
        "elsewhere": identity(options={"hidden": 9}),
    }
    keys = (
        "method",
        "method_options",
        "model",
        "task",
        "task_options",
        "ratio",
        "seed",
    )
    usual = {key: row("x")[key] for key in keys}
    empty.record_plan(
        [plan | usual | {"trial": t, "identity": i} for t, i in missing.items()]
    )
    assert counts(empty) == {
        ("é", "float32"): "1/4",
        (None, "float32"): "1/2",
        (None, "bfloat16"): "1/2",
    }


@pytest.mark.parametrize(
    ("goal", "value", "stderr", "chance", "at_chance"),
    [
        ("max", 0.13, 0.02, 0.10, True),  # 0.09 to 0.17 holds the level of guessing
        ("max", 0.15, 0.02, 0.10, False),
        ("max", 0.10, None, 0.10, True),  # an error that is not known counts as none
        ("min", 49_000, 100, 49_152, True),
        ("min", 48_000, 100, 49_152, False),
        ("min", 60_000, None, 49_152, True),
        ("max", 0.0, 0.0, None, None),
    ],
)
def test_what_is_no_better_than_guessing_is_said_and_gets_no_star(
    empty, goal, value, stderr, chance, at_chance
):
    for method, worse in (("svd", 0), ("magnitude", -9 if goal == "max" else 9e5)):
        made = row(method, method=method, ratio=0.2, chance=chance)
        number = {"metric": "m", "value": value + worse, "goal": goal, "stderr": stderr}
        other = {"metric": "n", "value": 0, "goal": "max"}  # chance is not of this one
        made["measurements"] = [number, other]
        empty.append(made)
    rows = ask(empty, "FROM leaderboard").dicts()

    (best,) = (r for r in rows if r["method"] == "svd" and r["metric"] == "m")
    assert best["at_chance"] is at_chance
    assert {r["at_chance"] for r in rows if r["metric"] == "n"} == {None}
    mine = [r for r in rows if r["metric"] == "m"]
    assert board_rows.is_best(best, mine) is not bool(at_chance)
    said = re.search(r"svd .*at chance", _shown(empty, mixed=False))
    assert (said is not None) is bool(at_chance)


def test_the_level_of_guessing_is_not_that_of_another_metric(empty):
    # A collapsed model: its perplexity is too large to rank, its loss is not.
    made = row("svd", method="svd", ratio=0.2, chance=50.0)
    made["measurements"] = [
        {"metric": "perplexity", "value": 1e200, "goal": "min"},
        {"metric": "loss", "value": 460.5, "goal": "min"},
    ]
    empty.append(made)

    found = ask(empty, "SELECT metric, main, at_chance FROM leaderboard").rows
    assert found == [("loss", True, None)]


def test_epochs_of_training_are_shown_where_a_method_trains(empty):
    empty.append(row("a", method="svd", trained_epochs=0, model="pretrained"))
    assert "epochs" not in _shown(empty, mixed=False)
    empty.append(row("b", method="dropback", trained_epochs=20, model="mlp"))
    shown = _shown(empty, mixed=False)
    heading = next(line for line in shown.splitlines() if "epochs" in line)
    trains = next(line for line in shown.splitlines() if "dropback" in line)
    assert heading.split()[-1] == "epochs"
    assert trains.split()[-1] == "20"


def test_the_metric_that_a_task_measures_first_is_read_unless_others_are_asked(empty):
    with pytest.raises(StoreError, match="has no ranked number yet"):
        leaderboard.read(empty)
    empty.append(row("t", measured={"accuracy": 0.9, "loss": 0.3}))

    def metrics(**only):
        return {r["metric"] for r in leaderboard.read(empty, **only).dicts()}

    assert metrics() == {"accuracy"}
    assert metrics(metric=["loss"]) == {"loss"}
    assert metrics(metric=["all"]) == {"accuracy", "loss"}
    assert metrics(metric=["all", "loss"]) == {"loss"}
    other = row("u", method="magnitude", model="cnn", measured={"accuracy": 0.9})
    empty.append(other)
    with pytest.raises(StoreError, match="no row of the leaderboard fits all"):
        leaderboard.read(empty, method=["svd"], model=["cnn"])


def test_one_board_asks_for_what_is_not_unique(empty):
    empty.append(row("a"))
    assert [r["method"] for r in leaderboard.one_board(empty)] == ["svd"]
    empty.append(row("b", model_options='{"hidden":9}'))
    with pytest.raises(StoreError, match="2 models fit: 'mlp', 'mlp hidden=9'; choose"):
        leaderboard.one_board(empty)


def test_only_protocols_with_a_rival_have_to_be_told_apart(empty):
    empty.append(row("a", protocol="p1"))
    empty.append(row("b", protocol="p2", task="other"))
    assert leaderboard.rival_protocols(leaderboard.read(empty)) == set()
    empty.append(row("c", protocol="p3"))
    assert leaderboard.rival_protocols(leaderboard.read(empty)) == {"p1", "p3"}

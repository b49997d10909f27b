"""The page of one trial: the attempt that counts, its numbers, log and command."""

import json

from synthetic import row

from results.boards.trial_page import trials
from results.storage import logs


def page(store, trial="t"):
    return trials(store, [trial])[trial]


def test_a_trial_that_is_not_in_the_store_has_no_page(empty):
    empty.append(row("t"))
    assert list(trials(empty, ["t", "missing"])) == ["t"]


def test_the_attempt_that_counts_is_shown_and_all_are_listed(empty):
    why = "first\n" + "x" * 30_000 + "ValueError: no"
    empty.append(row("t", status="failed", reason="no", traceback=why))
    failed = page(empty)
    empty.append(row("t", minute=5, measured={"accuracy": 0.75}))
    done = page(empty)

    assert (failed["status"], failed["reason"]) == ("failed", "no")
    assert len(failed["traceback"]) == 20_000  # its end, which has the error
    assert failed["traceback"].endswith("ValueError: no")
    assert (done["status"], done["reason"], done["traceback"]) == ("ok", "", "")
    assert [one["status"] for one in done["attempts"]] == ["failed", "ok"]
    assert done["attempts"][1]["started_at"] == "2026-01-01 12:05:00 UTC"


def test_numbers_without_a_step_are_final_and_the_others_a_curve(empty):
    made = row("t")
    made["measurements"] = [
        {"metric": "accuracy", "value": 0.5, "goal": "max"},
        *({"metric": "loss", "value": 1 / n, "step": n} for n in (2, 1, 4)),
    ]
    empty.append(made)

    found = page(empty)

    assert [(m["metric"], m["value"]) for m in found["metrics"]] == [("accuracy", 0.5)]
    assert found["curves"] == {"loss": [[1, 1.0], [2, 0.5], [4, 0.25]]}


def test_the_samples_of_a_perplexity_are_the_losses_of_windows(empty):
    made = row("t", measured={"perplexity": 8.0, "accuracy": 0.5})
    samples = [("loss", [2.0, 2.25]), ("accuracy", [0.0, 1.0])]
    empty.append(made, [{"metric": name, "values": v} for name, v in samples])
    empty.append(row("bare", method="svd", measured={"accuracy": 0.5}))

    found = page(empty)

    assert {m["metric"]: m["tested_by"] for m in found["metrics"]} == {
        "perplexity": "loss",
        "accuracy": "accuracy",
    }
    assert {s["metric"]: (s["values"], s["means"]) for s in found["samples"]} == {
        "loss": ([2.0, 2.25], True),
        "accuracy": ([0.0, 1.0], False),
    }
    assert page(empty, "bare")["samples"] == []


def test_json_is_parsed_and_other_text_is_shown_as_it_is(empty):
    empty.append(row("t", protocol_fields='{"a": 1}', versions="{broken"))

    found = page(empty)

    assert found["protocol_fields"] == {"a": 1}
    assert found["versions"] == {"unreadable": "{broken"}
    assert found["calibration"] is None


def test_the_end_of_the_log_of_the_newest_attempt_with_one_is_shown(empty):
    for minute, bundle in ((0, "b0"), (1, "b1"), (2, "b2"), (3, None)):
        empty.append(row("t", minute=minute, bundle=bundle, attempt=f"a{minute}"))
    for minute, bundle in ((0, "b0"), (1, "b1")):
        text = logs.begun(f"a{minute}", "t") + f"{bundle} " * 5000 + "the end\n"
        logs.write(empty, bundle, f"job{minute}", text)
    empty.append(row("quiet"))

    shown = page(empty)["log"]

    assert len(shown) == 10_000
    assert shown.rstrip().endswith("b1 the end")
    assert "b0" not in shown
    assert page(empty, "quiet")["log"] == ""


def test_the_command_that_repeats_a_trial_is_safe_to_paste(empty):
    empty.append(row("a-1.b", grid="mine"))
    empty.append(row("it's $x", grid="my grid"))
    empty.append(row("t", grid=None))

    assert page(empty, "a-1.b")["command"] == (
        "shrinkgrid run mine --only \"trial = 'a-1.b'\" --store again"
    )
    assert page(empty, "it's $x")["command"] == (
        "shrinkgrid run 'my grid' "
        """--only 'trial = '"'"'it'"'"''"'"'s $x'"'"'' --store again"""
    )
    assert page(empty)["command"].startswith("shrinkgrid run GRID --only")


def test_trials_of_the_same_bundle_are_its_siblings(empty):
    for trial, bundle in (("t", "b"), ("u", "b"), ("v", "c")):
        empty.append(row(trial, bundle=bundle, ratio=0.5 if trial == "u" else 0.2))

    found = page(empty)

    assert [one["trial"] for one in found["siblings"]] == ["t", "u"]
    assert [one["ratio"] for one in found["siblings"]] == [0.2, 0.5]
    json.dumps(found)  # as it is sent

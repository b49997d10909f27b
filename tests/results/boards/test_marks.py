"""Which rows of a leaderboard are marked as the best, and as like the best."""

import pytest
from synthetic import row

from harness.cli import main
from results.boards import leaderboard, marks

LOSSES = {
    "dense": [2.0, 3.0, 4.0, 3.5],
    "best": [2.1, 3.2, 4.1, 3.6],
    "near": [2.2, 3.1, 4.3, 3.5],  # better in two of four windows
    "far": [2.5, 3.6, 4.4, 4.1],  # 0.3 to 0.5 worse in each window
    "wreck": [13.0, 14.0, 12.0, 13.0],
}
# exp of the mean loss, and times its standard error.
PERPLEXITY = {"dense": 22.8, "best": 25.8, "near": 26.4, "far": 38.5, "wreck": 442_413}


@pytest.fixture
def filled(empty):
    for method, losses in LOSSES.items():
        made = row(method, method=method, ratio=0.0 if method == "dense" else 0.2)
        value = PERPLEXITY[method]
        made["measurements"] = [
            {"metric": "perplexity", "value": value, "goal": "min", "stderr": value / 2}
        ]
        empty.append(made, [{"metric": "loss", "values": losses}])
    return empty


def _marks(answer):
    at = answer.columns.index("method")
    return {line[at]: line[-1] for line in answer.rows}


def test_windows_tell_neighbours_apart_that_errors_do_not(filled):
    found = marks.marked(filled, leaderboard.read(filled))
    want = {"dense": "", "best": "best", "near": "like best", "far": "", "wreck": ""}
    assert _marks(found) == want
    assert found.columns[-1] == "mark"
    assert [line[:-1] for line in found.rows] == leaderboard.read(filled).rows


def test_wrecks_are_not_like_the_best_of_wrecks(empty):
    for method, value in (("dense", 0.9), ("svd", 0.1), ("magnitude", 0.09)):
        made = row(method, method=method, ratio=0.0 if method == "dense" else 0.2)
        made["measurements"] = [
            {"metric": "accuracy", "value": value, "goal": "max", "stderr": 0.1}
        ]
        empty.append(made)
    found = marks.marked(empty, leaderboard.read(empty))
    assert set(_marks(found).values()) == {""}


def test_without_samples_the_standard_errors_decide(empty):
    # A gap of 0.2 with errors of 0.05 each is 2.8 of their root sum of squares; one of
    # 0.1 is 1.4.
    for method, value in (("dense", 0.9), ("a", 0.8), ("b", 0.7), ("c", 0.6)):
        made = row(method, method=method, ratio=0.0 if method == "dense" else 0.2)
        made["measurements"] = [
            {"metric": "accuracy", "value": value, "goal": "max", "stderr": 0.05}
        ]
        empty.append(made)
    found = _marks(marks.marked(empty, leaderboard.read(empty)))
    assert found == {"dense": "", "a": "best", "b": "like best", "c": ""}


def test_without_any_error_nothing_is_like_the_best(empty):
    for method, value in (("dense", 0.9), ("a", 0.8), ("b", 0.7)):
        empty.append(
            row(
                method,
                method=method,
                ratio=0.0 if method == "dense" else 0.2,
                measured={"accuracy": value},
            )
        )
    found = _marks(marks.marked(empty, leaderboard.read(empty)))
    assert found == {"dense": "", "a": "best", "b": ""}


@pytest.fixture
def typed(capsys, filled):
    """Type `leaderboard` with some words: what it prints."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["leaderboard", "--store", filled.uri, *words])
        assert left.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("more", [(), ("--top", "2"), ("--method", "near")])
def test_what_is_shown_does_not_change_the_marks(typed, more):
    text = typed(*more)
    near = next(line for line in text.splitlines() if " near " in line)
    assert near.startswith("†")
    assert "† not distinguishable from the best at 5 %" in text
    written = typed(*more, "--format", "md")
    assert "| near † |" in written
    assert "† not distinguishable" in written


def test_a_condition_keeps_the_marks_and_data_has_none(typed):
    condition = ("--where", "method <> 'best'")
    text = typed(*condition)
    assert "★" not in text
    assert "†  near" in text
    assert "mark" not in typed(*condition, "--format", "csv").splitlines()[0]


def test_the_dense_model_is_no_rival_of_a_method_that_removed_nothing(empty):
    for method, value in (("dense", 0.8), ("a", 0.9)):
        made = row(method, method=method, ratio=0.0)
        made["measurements"] = [
            {"metric": "accuracy", "value": value, "goal": "max", "stderr": 0.05}
        ]
        empty.append(made)
    found = _marks(marks.marked(empty, leaderboard.read(empty)))
    assert found == {"dense": "", "a": ""}

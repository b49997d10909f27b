"""Headings and notes of boards in a terminal, and places over several protocols."""

import re

import pytest
from synthetic import row

from results.boards import leaderboard
from results.boards.leaderboard import Board
from results.errors import StoreError

BOARD = Board(title="net-a on task-b", ranked="loss", note="", rows=[], marks={})


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (21, ["net-a on task-b  loss"]),  # 15 + 2 + 4 characters
        (20, ["net-a on task-b", "loss"]),
        (13, ["net-a on", "task-b  loss"]),
        (9, ["net-a on", "task-b", "loss"]),  # names are not cut at hyphens
    ],
)
def test_a_heading_folds_between_words_and_its_metric_follows(
    monkeypatch, width, lines
):
    monkeypatch.setenv("COLUMNS", str(width))
    assert plain(leaderboard._heading(BOARD)) == lines


@pytest.mark.parametrize(("width", "longest"), [(200, 100), (60, 60)])
def test_a_note_is_folded_to_a_hundred_characters_or_less(monkeypatch, width, longest):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = leaderboard._wrapped("four " * 99)
    assert len(lines[0]) == longest - 1  # words of four letters and one space
    assert " ".join(lines).split() == ["four"] * 99


@pytest.fixture
def protocols(empty):
    """Accuracies by two protocols: b is best, a and c are as good."""
    for method, protocol, value in (
        ("a", "p1", 0.5),
        ("b", "p2", 0.9),
        ("c", "p2", 0.5),
        ("d", "p1", 0.4),
    ):
        measured = {"accuracy": value}
        made = row(method, method=method, protocol=protocol, measured=measured)
        empty.append(made)
    return empty


def test_more_of_an_accuracy_is_better_over_all_protocols_too(protocols):
    rows = leaderboard.together(leaderboard.read(protocols)).dicts()
    assert [(r["method"], r["place"]) for r in rows] == [
        ("b", 1),
        ("a", 2),
        ("c", 2),
        ("d", 4),
    ]


def test_protocols_are_apart_unless_told(protocols):
    answer = leaderboard.read(protocols)
    assert len(leaderboard.listed(answer)) == 2
    assert len(leaderboard.listed(answer, mixed=True)) == 1


def test_protocols_of_two_metrics_of_a_task_are_no_rivals(empty):
    for metric, protocol in (("accuracy", "p1"), ("bleu4", "p2")):
        empty.append(row(metric, protocol=protocol, measured={metric: 0.5}))
    answer = leaderboard.read(empty, metric=["accuracy", "bleu4"])
    assert len(answer.rows) == 2
    assert leaderboard.rival_protocols(answer) == set()


def test_what_fits_is_listed_in_alphabetical_order(empty):
    for model in "fbgdaec":
        empty.append(row(model, model=model))
    with pytest.raises(StoreError, match="'a', 'b', 'c', 'd', 'e', 'f', 'g'; choose"):
        leaderboard.one_board(empty)

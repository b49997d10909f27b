"""Which row of a leaderboard gets a star."""

import pytest

from results.boards import board_rows
from results.text.formats import DASH


def test_no_star_without_a_rival_and_none_on_a_useless_result():
    def made(method, ratio, place, recovery):
        return {"method": method, "ratio": ratio, "place": place, "recovery": recovery}

    best, second = made("svd", 0.2, 1, 0.9), made("magnitude", 0.2, 2, 0.5)
    wreck, worse = made("svd", 0.5, 1, 0.1), made("magnitude", 0.5, 2, 0.05)
    dense, alone = made("dense", 0.0, 1, 1.0), made("svd", 0.7, 1, 0.8)
    unknown, other = made("svd", 0.8, 1, None), made("magnitude", 0.8, 2, None)
    rows = [dense, best, second, wreck, worse, alone, unknown, other]
    assert [row for row in rows if board_rows.is_best(row, rows)] == [best, unknown]


ROW = {
    "method": "svd",
    "method_options": "{}",
    "calibration": None,
    "dtype": "float32",
    "ratio": 0.2,
    "ratio_of": "weights",
    "achieved": 0.1999,
    "coverage": None,
    "metric": "accuracy",
    "mean": 0.91234567,
    "stderr": 0.0123,
    "recovery": 0.956,
    "params": 17_610,
    "ok": 2,
    "planned": 3,
    "place": 1,
}


def cells(*, mark="", best=False, **changes):
    return board_rows.cells(ROW | changes, mark, best=best)


def test_a_row_is_written_column_by_column():
    assert dict(zip(board_rows.headings([ROW]), cells(), strict=False)) == {
        "": "",
        "method": "svd",
        "asked": "0.2",
        "achieved": "0.200",
        "of": "weights",
        "accuracy": "0.9123",
        "± stderr": "0.012",
        "recovery": "95.6%",
        "params": "17.6k",
        "seeds": "2/3",
    }
    unknown = dict.fromkeys(("achieved", "stderr", "recovery", "params"))
    found = cells(**unknown, ratio_of=None)
    assert [found[i] for i in (3, 6, 7, 8, 10)] == [DASH] * 5
    assert found[4] == ""
    assert [cells(ratio_of=of)[4] for of in ("none", "tracked_weights", "bits")] == [
        "",
        "tracked",
        "bits",
    ]


def test_marks_stand_before_and_behind_the_name():
    assert cells(best=True, mark=" [p]")[:2] == ["★", "svd [p]"]
    assert cells()[0] == ""
    row = ROW | {"mark": "like best", "speed": 0.9}
    assert board_rows.cells(row, " [p]", best=False)[:2] == ["†", "svd▼ [p]"]
    assert board_rows.cells(row, "", best=True)[0] == "★"


def test_the_treated_share_stands_where_it_is_not_all():
    shares = (None, 1.0, 0.5)
    assert [cells(coverage=share)[3] for share in shares] == [
        "0.200",
        "0.200",
        "0.200 (50.0% treated)",
    ]


def test_epochs_are_a_column_where_something_trained():
    trained = ROW | {"trained_epochs": 2.5}
    assert board_rows.headings([ROW, trained])[-1] == "epochs"
    assert board_rows.headings([ROW, ROW | {"trained_epochs": 0}])[-1] == "seeds"
    assert board_rows.cells(trained, "", best=False)[-1] == "2.5"


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999"), (1000, "1.0k"), (1e6, "1.0M"), (1e9, "1.0B"), (2.5e12, "2500.0B")],
)
def test_a_count_has_the_largest_unit_that_fits(value, text):
    assert board_rows.magnitude(value) == text


def test_a_network_is_slower_below_95_percent_of_the_dense_speed():
    speeds = (None, 0.95, 0.9499, 2.0)
    rows = [{"speed": speed} for speed in speeds]
    assert [board_rows.is_slower(row) for row in rows] == [False, False, True, False]
    assert board_rows.slower(rows).startswith("▼ slower than the dense model")
    assert board_rows.slower(rows[:2]) == ""


def test_a_note_explains_the_mark_where_a_row_has_it():
    assert board_rows.like_best([{"mark": "best"}, {}]) == ""
    assert "not distinguishable" in board_rows.like_best([{}, {"mark": "like best"}])


def test_a_recovery_of_twelve_percent_is_useless_and_guessing_gets_no_star():
    rival = ROW | {"method": "magnitude", "place": 2}
    for change, star in (
        ({"recovery": 0.12}, False),
        ({"recovery": 0.13}, True),
        ({"at_chance": True}, False),
        ({"place": 2}, False),
        ({"ratio": 0.5}, False),  # no rival
        ({"method": "dense"}, False),
    ):
        row = ROW | change
        assert board_rows.is_best(row, [row, rival]) is star, change
    tied = [ROW, ROW | {"method": "dense"}]  # the dense model does not compete
    assert board_rows.is_best(ROW, tied) is False

import pytest
import torch

from harness.core import Unsupported
from methods._kernels.patterns import Pattern, fixed_ratio, least, parse


@pytest.mark.parametrize(("text", "kept", "group"), [("2:4", 2, 4), ("1:16", 1, 16)])
def test_a_pattern_is_read_as_kept_of_group(text, kept, group):
    made = parse(text)

    assert (made.kept, made.group) == (kept, group)
    assert made.ratio == 1 - kept / group


@pytest.mark.parametrize(
    "text", ["0:4", "4:4", "5:4", "2-4", "2:4:8", "", "2:", "-1:4"]
)
def test_other_texts_are_refused_with_the_form_to_write(text):
    with pytest.raises(ValueError, match="not 'n:m' with 0 < n < m"):
        parse(text)


def test_of_each_group_the_smallest_are_marked():
    scores = torch.tensor([[5.0, 1, 2, 9, 8, 3, 4, 7], [1, 2, 3, 4, 4, 3, 2, 1]])

    for kept in (1, 2, 3):
        marked = Pattern(kept, 4).smallest(scores)
        for row, marks in zip(scores.tolist(), marked.tolist(), strict=True):
            for start in (0, 4):
                values = row[start : start + 4]
                stay = [v for v, m in zip(values, marks[start:], strict=False) if not m]
                assert stay == [v for v in values if v in sorted(values)[-kept:]]


def test_a_width_that_groups_do_not_divide_names_the_matrix():
    Pattern(2, 4).check(8, "w")

    with pytest.raises(Unsupported, match="2:4 does not fit w: its rows have 10"):
        Pattern(2, 4).check(10, "w")


def test_the_ratio_of_a_trial_is_that_of_its_pattern():
    fixed_ratio(None, 0.3)
    fixed_ratio(Pattern(2, 4), 0.5)
    fixed_ratio(Pattern(1, 3), 2 / 3)

    with pytest.raises(
        Unsupported, match=r"sets 0\.5 of the weights to zero, not 0\.4"
    ):
        fixed_ratio(Pattern(2, 4), 0.4)
    with pytest.raises(Unsupported, match="leave the ratio out"):
        fixed_ratio(Pattern(2, 4), 0.500001)


def test_least_marks_exactly_count_of_each_row():
    scores = torch.tensor([[3.0, 1, 2], [1, 1, 1]])

    assert least(scores, 0).sum() == 0
    assert least(scores, 1).tolist()[0] == [False, True, False]
    assert least(scores, 2).sum(1).tolist() == [2, 2]
    assert bool(least(scores, 3).all())

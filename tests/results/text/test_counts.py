"""Plural forms."""

import pytest

from results.text.counts import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(1, "trial", "1 trial"), (0, "trial", "0 trials"), (2, "fix", "2 fixes")],
)
def test_a_number_decides_the_form_of_its_noun(number, noun, text):
    assert counted(number, noun) == text

"""Plural forms."""

import pytest

from results.text.counts import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "trial", "1 trial"),
        (0, "trial", "0 trials"),
        (2, "fix", "2 fixes"),
        (2, "class", "2 classes"),
        (2, "batch", "2 batches"),
        (2, "hash", "2 hashes"),
        (2, "entry", "2 entries"),
        (2, "key", "2 keys"),
        (2, "delay", "2 delays"),
        (2, "ye", "2 yes"),
        (2, "month", "2 months"),
    ],
)
def test_a_number_decides_the_form_of_its_noun(number, noun, text):
    assert counted(number, noun) == text

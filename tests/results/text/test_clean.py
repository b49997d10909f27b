"""Hostile text cannot move a cursor, reorder a line or become a formula."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from results.text.clean import clean, is_formula, spreadsheet_cell

BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_no_control_or_bidirectional_character_stays():
    for code in range(0x110000):
        c = chr(code)
        harmful = unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        harmful |= unicodedata.bidirectional(c) in BIDIRECTIONAL
        assert (clean(c) != c) == (harmful and c not in "\t\n") or c in (
            "\u061c\u200e\u200f\ufeff"  # marks without a class of their own
        )


def test_a_terminal_sequence_is_shown_and_not_obeyed():
    # OSC 8 is a link, OSC 52 writes the clipboard, \x9b is CSI in one character.
    hostile = "\x1b]52;c;ZXZpbA==\x07\x9b2J\x1b]8;;http://x\x1b\\"
    assert clean(hostile) == r"\x1b]52;c;ZXZpbA==\x07\x9b2J\x1b]8;;http://x\x1b" + "\\"
    # Bytes of names that are not UTF-8; other halves of characters are not bytes.
    assert clean("caf\udce9 \udc80\udcff") == r"caf\xe9 \x80\xff"
    assert clean("\udc7f\udd00") == r"\udc7f\udd00"


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_are_not_formulas(number):
    assert spreadsheet_cell(str(number)) == str(number)


@given(st.text())
def test_what_is_quoted_is_no_longer_a_formula(text):
    assert not is_formula(spreadsheet_cell(text))


def test_a_formula_is_recognised_by_its_first_character_alone():
    assert is_formula("=\u0338A1")  # with a mark that would make it an unequal sign
    assert is_formula(" \t@x")
    assert not is_formula("a=1")
    assert not is_formula(" ")

"""Aligned columns of a terminal."""

import re

from results.text.columns import Columns, styled


def plain(view: Columns) -> list[str]:
    return re.sub(r"\x1b\[[\d;]*m", "", str(view)).split("\n")


def made(width: int) -> Columns:
    view = Columns(headings=["name", "value"], left=[True, False], width=width)
    view.add(["a long name of words", "1"], "2")
    view.rule()
    view.add(["b", "123456789"])
    return view


def test_texts_stand_on_the_left_and_numbers_on_the_right():
    # 20 and 9 characters with a gap of 2 fill 31.
    assert plain(made(31)) == [
        "name                      value",
        "─" * 31,
        "a long name of words          1",
        "",
        "b                     123456789",
    ]


def test_a_text_folds_where_the_terminal_is_too_narrow():
    assert plain(made(30)) == [
        "name                     value",
        "─" * 30,
        "a long name of               1",
        "words",
        "",
        "b                    123456789",
    ]


def test_a_column_keeps_eight_characters_and_numbers_never_fold():
    # 8, 2 and 9: the lines are longer than the terminal, the rule is not.
    assert plain(made(10)) == [
        "name          value",
        "─" * 10,
        "a long            1",
        "name of",
        "words",
        "",
        "b         123456789",
    ]
    numbers = Columns(headings=["n"], left=[False], width=3)
    numbers.add(["12345"])
    assert plain(numbers) == ["    n", "─" * 3, "12345"]


def test_the_widest_text_gives_way_first():
    view = Columns(headings=["a", "b"], left=[True, True], width=22)
    view.add(["x" * 9, "one two three four"])
    assert plain(view)[2:] == ["xxxxxxxxx  one two", "           three four"]


def test_words_are_not_cut_at_hyphens_and_codes_are_closed():
    view = Columns(headings=["a"], left=[True], width=10)
    view.add(["aaaaa-bbb ccc"])
    assert plain(view)[2:] == ["aaaaa-bbb", "ccc"]
    assert styled("x", "1", "33") == "\x1b[1;33mx\x1b[0m"
    assert styled("x") == "x"

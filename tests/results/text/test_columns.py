"""Tables in narrow and wide terminals: what folds, what is left out, what never is."""

import re

import pytest

from results.text import columns
from results.text.columns import Columns, styled

ROWS = [["class_aware_pruning retrain.epochs=4", "0.5", "0.9819", "2/2"]]
HEADINGS = ["method", "asked", "accuracy", "seeds"]


def shown(width: int, dropped=(3, 1)) -> list[str]:
    table = Columns(
        headings=HEADINGS,
        left=[True, False, False, False],
        dropped=dropped,
        width=width,
    )
    for row in ROWS:
        table.add(row)
    text = str(table)
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        text = text.replace(code, "")
    return text.splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_wide_terminal_has_all_on_one_line(width):
    assert shown(width) == [
        "method                                asked  accuracy  seeds",
        "────────────────────────────────────────────────────────────",
        "class_aware_pruning retrain.epochs=4    0.5    0.9819    2/2",
    ]


def test_texts_fold_between_words_before_a_column_is_left_out():
    assert shown(45) == [
        "method                 asked  accuracy  seeds",
        "─────────────────────────────────────────────",
        "class_aware_pruning      0.5    0.9819    2/2",
        "retrain.epochs=4",
    ]


def test_columns_are_left_out_in_the_order_given():
    # Words of 19, 5, 8 and 5 characters and three gaps of 2 are 43.
    assert shown(43)[0].split() == HEADINGS
    assert shown(42)[0].split() == shown(38)[0].split() == HEADINGS[:3]
    assert shown(30)[0].split() == ["method", "accuracy"]


def test_a_sentence_stays_readable_where_columns_can_be_left_out():
    def shown(width, readable):
        table = Columns(
            headings=["table", "what", "cells"],
            left=[True, True, False],
            dropped=[2],
            width=width,
            readable=readable,
        )
        table.add(["asvd", "loss", "3"])
        table.add(["svd", "perplexity and accuracy of three networks", "12"])
        return str(table).splitlines()

    assert shown(34, 24)[3].startswith("svd    perplexity and accuracy")
    assert "cells" not in shown(34, 24)[0]
    assert "cells" in shown(34, 0)[0]
    assert "cells" in shown(38, 24)[0]


def test_a_name_is_never_broken():
    for width in (5, 10, 20, 30, 40):
        assert "class_aware_pruning" in " ".join(shown(width)).split()


def test_a_table_that_drops_nothing_becomes_blocks():
    assert shown(30, dropped=()) == [
        "  method  class_aware_pruning",
        "          retrain.epochs=4",
        "   asked  0.5",
        "accuracy  0.9819",
        "   seeds  2/2",
    ]


def test_a_pipe_has_no_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns.terminal_width() > 10_000
    monkeypatch.setenv("COLUMNS", "90")
    assert columns.terminal_width() == 90


def test_a_terminal_that_does_not_tell_its_width_has_80_characters(monkeypatch):
    def unknown(*_):
        raise OSError

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(columns.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(columns.os, "get_terminal_size", unknown)
    assert columns.terminal_width() == 80


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


def test_the_widest_text_gives_way_first():
    view = Columns(headings=["a", "b"], left=[True, True], width=22)
    view.add(["x" * 9, "one two three four"])
    assert plain(view)[2:] == ["xxxxxxxxx  one two", "           three four"]
    view = Columns(headings=["a", "b"], left=[True, True], width=22)
    view.add(["aa bb cc", "one two three four"])
    assert plain(view)[2:] == ["aa bb cc  one two", "          three four"]
    view = Columns(headings=["a", "b"], left=[True, True], width=19)
    view.add(["x" * 9, "aa bb cc dd"])  # a name that cannot give way
    assert plain(view)[2:] == ["xxxxxxxxx  aa bb cc", "           dd"]


def test_words_are_not_cut_at_hyphens_and_codes_are_closed():
    view = Columns(headings=["a"], left=[True], width=10)
    view.add(["aaaaa-bbb ccc"])
    assert plain(view)[2:] == ["aaaaa-bbb", "ccc"]
    view = Columns(headings=["a"], left=[True], width=8)
    view.add(["aa aaaa-bbb"])
    assert plain(view)[2:] == ["aa", "aaaa-bbb"]
    assert styled("x", "1", "33") == "\x1b[1;33mx\x1b[0m"
    assert styled("x") == "x"


def test_a_block_uses_the_width_and_never_less_than_twenty_characters():
    def block(width):
        view = Columns(headings=["h" * 30, "i"], left=[True, True], width=width)
        view.add(["one two three four five six", "x"])
        return [line[32:] for line in plain(view)][:2]

    assert block(29) == ["one two three four", "five six"]  # 20 beside the heading
    view = Columns(headings=["h" * 9, "i" * 40], left=[True, True], width=45)
    view.add(["one two three four five six", "x"])
    # 45 - 40 - 2 = 3 would be less.
    assert [line[42:] for line in plain(view)][:2] == ["one two three four", "five six"]
    view = Columns(headings=["h" * 9, "i"], left=[True, False], width=39)
    view.add(["one two three four five six", "1" * 40])
    # 39 - 9 - 2 = 28 characters.
    assert [line[11:] for line in plain(view)][:1] == ["one two three four five six"]
    for heading, first in (("h" * 9, "aaaa bbbb cccc dddd eeee"), ("h" * 8, "")):
        view = Columns(headings=[heading, "i"], left=[True, False], width=39)
        text = "aaaa bbbb cccc dddd eeee ffff"  # 29 characters
        view.add([text, "1" * 40])
        assert plain(view)[0].strip() == f"{heading}  {first or text}"


def test_a_block_folds_at_twenty_characters_and_breaks_no_word():
    view = Columns(headings=["h" * 30, "i"], left=[True, True], width=10)
    view.add(["one two three four ab", "x" * 25])  # 21 characters
    assert [line[32:] for line in plain(view)] == [
        "one two three four",
        "ab",
        "x" * 25,
    ]


def test_a_column_without_any_text_takes_no_width():
    view = Columns(headings=["", "a"], left=[True, True], width=80)
    view.add(["", "x"])
    assert plain(view) == ["  a", "─" * 3, "  x"]

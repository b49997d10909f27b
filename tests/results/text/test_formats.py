"""Rows as CSV, JSON and Markdown that nobody's text can break out of."""

import csv
import io
import json
import math

import pytest

from results.text.answer import Answer
from results.text.formats import DASH, FORMATS, as_csv, number, render, shown

HOSTILE = "=cmd|' /C calc'!A0 \x1b[2J\x07\x9b31m\u202e\x7f"
ANSWER = Answer(
    columns=("method", "value", "text", "@list"),
    types=("VARCHAR", "DOUBLE", "VARCHAR", "VARCHAR[]"),
    rows=[(HOSTILE, -1.5, "-1.5", ["=1", "\x1b"]), ("a,b\nc", None, "+49 x", [])],
)


@pytest.mark.parametrize("form", FORMATS)
def test_no_format_prints_a_control_character(form):
    text = render(ANSWER, form).replace("\x1b[1m", "").replace("\x1b[2m", "")
    text = text.replace("\x1b[0m", "")  # our own bold and dim
    assert not set(text) & set("\x1b\x07\x9b\u202e\x7f")


def _rows(form):
    return list(csv.reader(io.StringIO(render(ANSWER, form))))


def test_csv_shows_formulas_as_text_and_leaves_numbers_alone():
    head, first, second = _rows("csv")
    assert head == ["method", "value", "text", "'@list"]
    assert first[0].startswith("'=cmd|")
    assert first[1:3] == ["-1.5", "-1.5"]
    assert second[:3] == ["a,b\nc", "", "'+49 x"]


def test_csv_raw_leaves_formulas_as_they_are():
    head, first, second = _rows("csv-raw")
    assert head[3] == "@list"
    assert first[0].startswith("=cmd|")
    assert second[2] == "+49 x"


def test_json_loses_nothing():
    first, _ = json.loads(render(ANSWER, "json"))
    assert first["method"] == HOSTILE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (999.94, "999.9"),
        (1000.0, "1,000"),
        (-1234.5, "-1,234"),  # half to even
        (1e-4, "0.0001"),
        (9.9e-5, "9.900e-05"),
        (-0.012345, "-0.01235"),
        (100.0, "100"),
    ],
)
def test_a_number_has_four_significant_digits(value, text):
    assert number(value) == text


def test_whole_numbers_of_six_digits_have_commas():
    assert [shown(n) for n in (99_999, 100_000, -100_000)] == [
        "99999",
        "100,000",
        "-100,000",
    ]


def test_formulas_are_shown_as_text_unless_asked_otherwise():
    assert as_csv(ANSWER) == as_csv(ANSWER, formulas=False)
    assert "'=cmd" in as_csv(ANSWER)


TYPED = Answer(
    columns=("name", "count", "values"),
    types=("VARCHAR", "INTEGER", "DOUBLE[]"),
    rows=[("a_b", 1234567, [1.0]), (None, 2, None)],
)


def test_markdown_has_numbers_on_the_right_and_dashes_for_holes():
    assert render(TYPED, "md").splitlines() == [
        "| name | count | values |",
        "| --- | ---: | --- |",
        r"| a\_b | 1,234,567 | \[1.0\] |",
        f"| {DASH} | 2 | {DASH} |",
    ]


def test_a_table_has_numbers_on_the_right_too():
    head, _, *rows = render(TYPED, "table").splitlines()
    assert head.endswith("name      count  values\x1b[0m")
    assert rows == ["a_b   1,234,567  [1.0]", f"{DASH}             2  {DASH}"]


def test_json_has_null_for_what_is_not_finite_at_any_depth():
    values = [math.nan, {"a": [1.5, -math.inf]}, 3, None]
    odd = Answer(columns=("x",), types=("JSON",), rows=[(values,), (math.inf,)])

    assert json.loads(render(odd, "json")) == [
        {"x": [None, {"a": [1.5, None]}, 3, None]},
        {"x": None},
    ]


def test_a_list_is_json_in_a_field_of_csv():
    assert as_csv(TYPED).splitlines() == [
        "name,count,values",
        "a_b,1234567,[1.0]",
        ",2,",
    ]


def test_a_sentence_is_folded_less_where_columns_can_be_left_out(monkeypatch):
    monkeypatch.setenv("COLUMNS", "34")
    long = Answer(
        columns=("table", "what", "cells"),
        types=("VARCHAR", "VARCHAR", "INTEGER"),
        rows=[("svd", "perplexity and accuracy of three networks", 12)],
    )

    assert "cells" not in render(long, "table", dropped=["cells"])
    head, _, first, *_ = render(long, "table").splitlines()
    assert "cells" in head
    assert first == "svd    perplexity and           12"

"""Rows as text: a table for a terminal, CSV, JSON or Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from results.text.answer import Answer
from results.text.clean import clean, spreadsheet_cell
from results.text.columns import Columns

FORMATS = ("table", "csv", "csv-raw", "json", "md")
_READABLE = 24  # characters of a line of a sentence
DASH = "\N{EN DASH}"  # what stands where there is no number


def render(answer: Answer, form: str, dropped: Sequence[str] = ()) -> str:
    """Rows as text in one of ``FORMATS``; all but ``table`` lose no digit.

    Args:
        answer: What a query gave.
        form: Output format, one of ``FORMATS``.
        dropped: Columns that ``table`` leaves out in a narrow terminal, first one
            first.

    Returns:
        The text, without a newline at its end.
    """
    if form in ("csv", "csv-raw"):
        return as_csv(answer, formulas=form == "csv-raw")
    if form == "json":
        rows = [{k: _finite(v) for k, v in row.items()} for row in answer.dicts()]
        text = json.dumps(rows, indent=1, default=str)
        return text.replace("\x7f", "\\u007f")  # the one control it does not escape
    if form == "md":
        return as_markdown(answer)
    return as_columns(answer, dropped)


def _finite(value: Any) -> Any:
    """Null for what JSON has no number for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return value


def as_csv(answer: Answer, *, formulas: bool = False) -> str:
    """CSV with a header; NULL is an empty field, a list or struct is JSON.

    Args:
        answer: The rows to write.
        formulas: Whether texts that a spreadsheet would compute stay as they are;
            else they get an apostrophe in front.

    Returns:
        The text, without control characters.
    """

    def cell(value: Any) -> Any:
        flat = _flat(value)
        if not isinstance(flat, str):
            return flat
        return clean(flat) if formulas else spreadsheet_cell(clean(flat))

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([cell(column) for column in answer.columns])
    writer.writerows([cell(value) for value in row] for row in answer.rows)
    return out.getvalue().rstrip("\n")


def as_markdown(answer: Answer) -> str:
    """A Markdown table; numbers are shortened, specials are escaped."""
    numeric = [_is_numeric(kind) for kind in answer.types]
    lines = [
        "| " + " | ".join(markdown(column) for column in answer.columns) + " |",
        "| " + " | ".join("---:" if right else "---" for right in numeric) + " |",
    ]
    for row in answer.rows:
        lines.append("| " + " | ".join(markdown(shown(v)) for v in row) + " |")
    return "\n".join(lines)


def markdown(text: str) -> str:
    r"""``text`` so that Markdown shows it unchanged, on one line of a table.

    >>> markdown("a|b_c<br>")
    'a\\|b\\_c&lt;br>'
    """
    text = clean(text)
    for special in "\\`*_[]|~$":
        text = text.replace(special, "\\" + special)
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def as_columns(answer: Answer, dropped: Sequence[str] = ()) -> str:
    """Aligned columns for a terminal; numbers are shortened.

    Args:
        answer: The rows to write.
        dropped: As for ``render``.

    Returns:
        The text.
    """
    numeric = [_is_numeric(kind) for kind in answer.types]
    table = Columns(
        headings=answer.columns,
        left=[not right for right in numeric],
        dropped=[answer.columns.index(name) for name in dropped],
        readable=_READABLE if dropped else 0,
    )
    for row in answer.rows:
        table.add(map(shown, row))
    return str(table)


def shown(value: Any) -> str:
    """One value for human eyes: a dash for NULL, four significant digits.

    >>> [shown(v) for v in (0.123456, 12.0, 1234567.0, 7, True, "a")]
    ['0.1235', '12', '1,234,567', '7', 'True', 'a']
    """
    if value is None:
        return DASH
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    return str(_flat(value))


def number(value: float) -> str:
    """Four significant digits, never fewer than the whole part.

    >>> [number(v) for v in (5.678123, 0.00012345, 98765.4, 1e9, math.inf, 5.70)]
    ['5.678', '0.0001234', '98,765', '1,000,000,000', 'inf', '5.7']
    """
    if not math.isfinite(value) or value == 0:
        return str(value) if value else "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.3e}"
    places = 3 - math.floor(math.log10(abs(value)))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _flat(value: Any) -> Any:
    if isinstance(value, list | dict | tuple):
        return json.dumps(value, default=str)
    return value


def _is_numeric(kind: str) -> bool:
    words = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "NUMBER")
    return any(word in kind.upper() for word in words) and "[" not in kind

"""Rows as lines of JSON, and such lines as columns of Arrow.

Arrow takes rows as Python objects too. But then it imports pandas, which costs every
worker and every command half a second; and a column of whole numbers takes 1.5 as 1.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from results.errors import StoreError
from results.schema import arrow

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK = 1 << 20  # bytes that Arrow parses at a time; no line may be longer


def line(row: Mapping[str, Any]) -> bytes:
    """A row as JSON without the holes.

    Args:
        row: Numbers (NumPy's too), texts, moments, and lists and mappings of these.

    Returns:
        One line, without its end.

    Raises:
        StoreError: If a value is none of these, or not finite.

    >>> line({"ratio": 0.1, "seed": 3, "reason": None})
    b'{"ratio": 0.1, "seed": 3}'
    """
    kept = {name: value for name, value in row.items() if value is not None}
    try:
        text = json.dumps(kept, default=_plain, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, AttributeError) as why:
        raise StoreError(f"a row cannot be stored: {why}") from why
    return text.encode(errors="replace")  # a file name may not be Unicode


def table(name: str, lines: Sequence[bytes], *, exact: bool = True) -> pa.Table:
    """Lines as a table of the store.

    Args:
        name: a name of ``schema.TABLES``.
        lines: As ``line`` makes them.
        exact: Whether to refuse fields that the table does not have.

    Returns:
        One row per line; fields that a line does not have are NULL.

    Raises:
        StoreError: If a line does not fit the table's columns.
    """
    import pyarrow as pa
    from pyarrow.json import ParseOptions, ReadOptions, open_json

    if not lines:
        return arrow(name).empty_table()
    # Arrow parses in blocks and fails on a line that is longer than one.
    block = max(_BLOCK, *map(len, lines))
    read_options = ReadOptions(use_threads=False, block_size=block)
    # A writer must not lose a column; a reader of newer rows leaves out what it does
    # not know.
    unknown = "error" if exact else "ignore"
    parse_options = ParseOptions(
        explicit_schema=arrow(name), unexpected_field_behavior=unknown
    )
    text = pa.BufferReader(b"\n".join(lines))
    try:
        with open_json(text, read_options, parse_options) as reader:
            read: pa.Table = reader.read_all()
    except pa.ArrowException as why:
        raise StoreError(f"a row of {name} does not fit its columns: {why}") from why
    # A line that holds a line feed, or two objects, would shift all rows after it.
    if read.num_rows != len(lines):
        raise StoreError(f"{len(lines)} lines hold {read.num_rows} rows of {name}")
    return read


def _plain(value: Any) -> Any:
    """A moment as text, a number of NumPy's as one of Python's."""
    return value.isoformat() if isinstance(value, dt.datetime) else value.item()

"""A row's copy in the footer of its small file.

Opening ten thousand Parquet files of sixty columns takes many seconds, whoever reads
them; reading their bytes takes a tenth of one. So the writer puts the one row of a file
into its metadata too, as JSON, and readers of many small files take it from there. The
columns stay what counts: compaction reads them, and so does everybody else.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from typing import Any

from results.folder import Folder
from results.schema import TRIALS

KEY = "shrinkgrid.row"
# How the footer holds the key (Thrift's compact protocol): field, length, text, field.
_BEFORE = bytes([0x18, len(KEY)]) + KEY.encode() + b"\x18"
_END = b"PAR1"  # of a whole Parquet file
_TIMES = [name for name, kind in TRIALS.items() if kind == "TIMESTAMPTZ"]


def copied(row: Mapping[str, Any]) -> str:
    """A row of ``schema.TRIALS`` as the text that stands under ``KEY``.

    Args:
        row: Values that Arrow takes.

    Returns:
        JSON without the holes.
    """
    kept = {name: value for name, value in row.items() if value is not None}
    return json.dumps(kept, default=_plain)


def _plain(value: Any) -> Any:
    """A moment as text, a number of NumPy's as one of Python's."""
    return value.isoformat() if isinstance(value, dt.datetime) else value.item()


def rows(
    folder: Folder, paths: Iterable[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of small files.

    Args:
        folder: The store's.
        paths: Of files of the table ``trials``.

    Returns:
        The rows whose copies were found, and the paths of the files without one, which
        have to be read as Parquet.
    """
    found, left = [], []
    for path in paths:
        row = _row(folder.read(path) or b"")
        if row is None:
            left.append(path)
        else:
            found.append(row)
    return found, left


def _row(content: bytes) -> dict[str, Any] | None:
    """The copy in a file's footer, None if there is none."""
    if not content.endswith(_END):
        return None
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    at = footer.rfind(_BEFORE)  # the metadata stands behind all that columns say
    if at < 0:
        return None
    length, start = _varint(footer, at + len(_BEFORE))
    try:
        row: dict[str, Any] = json.loads(footer[start : start + length])
    except ValueError:
        return None
    for name in _TIMES:
        if name in row:
            row[name] = dt.datetime.fromisoformat(row[name])
    return row


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends.

    >>> _varint(bytes([0xAC, 0x02]), 0)
    (300, 2)
    """
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1

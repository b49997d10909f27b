"""Embedded rows: the rows of a small file, repeated as JSON in the file's footer.

Opening ten thousand Parquet files of sixty columns takes many seconds in any reader;
reading their bytes takes a tenth of a second. The writer therefore also puts the rows
of a small file into its metadata, as the lines of JSON that the columns are built from.
Readers of many small files, and compaction, use these lines. Other programs read the
columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from results.storage.folder import Folder

KEY = "shrinkgrid.row"
MOST = 100  # rows of a file whose rows are embedded; larger files open fast enough
# How the footer holds the key (Thrift's compact protocol): field, length, text, field.
_BEFORE = bytes([0x18, len(KEY)]) + KEY.encode() + b"\x18"
_END = b"PAR1"  # of a whole Parquet file


def embedded_rows(
    folder: Folder, paths: Iterable[str]
) -> tuple[list[bytes], list[str]]:
    """Read the embedded rows of small files.

    Args:
        folder: The folder of the store.
        paths: Paths of files of the table ``trials``.

    Returns:
        Lines of ``results.storage.encoding``, and the paths of the files without one,
        which have to be read as Parquet.
    """
    found, left = [], []
    for path in paths:
        copy = _embedded(folder.read(path) or b"")
        if copy is None:
            left.append(path)
        else:
            found += copy.split(b"\n")
    return found, left


def _embedded(content: bytes) -> bytes | None:
    """Returns the embedded rows of a file, a line each; None if there are none."""
    # A file that is cut off is left to the reader of columns, which reports it.
    if not content.endswith(_END):
        return None
    # The end of a Parquet file: the footer, its length in four bytes, "PAR1".
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    at = footer.rfind(_BEFORE)  # the metadata stands behind all that columns say
    if at < 0:
        return None
    # Thrift writes the length of a text as a number of variable size before it.
    length, start = _varint(footer, at + len(_BEFORE))
    return footer[start : start + length]


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

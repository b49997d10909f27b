"""Reads text files: the one place that knows of encodings and byte order marks."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from harness.core import BenchError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE_END = re.compile("\r\n|\r|\n")


def read(path: Path) -> str:
    """Read a UTF-8 file whole.

    Args:
        path: With or without a byte order mark, which is not part of the text.

    Returns:
        The text; every line ends in a line feed, whatever it ends in on the disk.

    Raises:
        BenchError: If the file cannot be read or is not UTF-8; names the file and the
            first wrong byte.
    """
    try:
        return decode(path.read_bytes(), str(path))
    except OSError as why:
        raise BenchError(f"{path} cannot be read: {why.strerror}") from why


def lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends; see ``read``."""
    text = read(path)
    return text.removesuffix("\n").split("\n") if text else []


def decode(content: bytes, name: str) -> str:
    r"""Decode the bytes of a text file; see ``read``.

    >>> decode(b"\xef\xbb\xbfone\r\ntwo", "a.txt")
    'one\ntwo'
    """
    if content.startswith(_UTF16):
        raise BenchError(
            f"{name} is UTF-16 by its byte order mark, not UTF-8; convert the file "
            "(iconv -f utf-16 -t utf-8)"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as why:
        before = _LINE_END.split(content[: why.start].decode("utf-8"))
        raise BenchError(
            f"{name}, line {len(before)}: byte {content[why.start]:#04x} at column "
            f"{len(before[-1]) + 1} is not UTF-8; convert the file (iconv -t utf-8)"
        ) from why
    return _LINE_END.sub("\n", text.removeprefix("\ufeff"))

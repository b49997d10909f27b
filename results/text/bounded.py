"""Reads files that a user names, whatever they turn out to be."""

from __future__ import annotations

import stat
from pathlib import Path

from results.errors import StoreError


def read_bytes(path: Path, most: int) -> bytes:
    """Returns the content of a file that has a bounded size.

    Args:
        path: A regular file; devices, pipes and folders are refused unread, since
            reading some of them never ends.
        most: Largest size in bytes.

    Returns:
        The content.

    Raises:
        StoreError: If it is not such a file, is larger, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise StoreError(f"{path} is not a file: name a regular file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as why:
        said = getattr(why, "strerror", why)
        raise StoreError(f"{path} cannot be read: {said}") from why
    if len(content) > most:
        raise StoreError(f"{path} has more than {most:,} bytes, which is the limit")
    return content


def read_text(path: Path, most: int) -> str:
    """Returns the text of a file in UTF-8; see ``read_bytes``.

    Args:
        path: Path of the file, as in ``read_bytes``.
        most: Largest size in bytes, as in ``read_bytes``.

    Returns:
        The text, without a byte order mark.

    Raises:
        StoreError: As ``read_bytes`` does, or if it is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as why:
        raise StoreError(f"{path} is not UTF-8 text: {why}") from why

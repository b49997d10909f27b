"""What identifies a file, a folder or a text: its content, hashed once and remembered.

Every input of a trial that is read from a disk is identified here. The page
``docs/explanation/identity.md`` lists the inputs and says what happens when one of them
changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from harness.core import BenchError
from results.text import json_reader

SHOWN = 16  # hexadecimal digits of a digest in an identity
# A file that was written so recently may be written again within the clock tick of its
# file system, with equal times: its digest is not remembered (as git does it).
_SETTLED = 2.0  # seconds
_CHUNK = 1 << 20  # bytes

_Stamp = tuple[int, int, int, int, int]
_known: dict[tuple[str, _Stamp], str] = {}
_asked: ContextVar[dict[tuple[str, str], str] | None] = ContextVar(
    "asked", default=None
)


@contextmanager
def recording() -> Iterator[dict[tuple[str, str], str]]:
    """Record which identities the code in the block asks for.

    Yields:
        (``file`` or ``text``, its path or name) -> its identity; other kinds are what
        cannot be asked for again.
    """
    asked: dict[tuple[str, str], str] = {}
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def record(kind: str, name: str, found: str = "") -> None:
    """Note an identity that was asked for, in a block of ``recording``."""
    asked = _asked.get()
    if asked is not None:
        asked[kind, name] = found


def of_text(text: str) -> str:
    """The identity of a text.

    >>> of_text("")
    'sha256:e3b0c44298fc1c14'
    """
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:SHOWN]}"


def of_file(path: Path) -> str:
    """The identity of one file: equal to that of a text with the same bytes.

    Args:
        path: The file; links are followed.

    Returns:
        ``sha256:`` and 16 hexadecimal digits.

    Raises:
        BenchError: If the file is missing, unreadable, or changes while it is read.
    """
    return f"sha256:{digests([path])[path][:SHOWN]}"


def of_files(named: Mapping[str, Path]) -> str:
    """The identity of several files: their names, and the whole content of each.

    Args:
        named: The name that counts -> the file; the order does not matter.

    Returns:
        ``sha256:`` and 16 hexadecimal digits.

    Raises:
        BenchError: As ``digests``.
    """
    found = digests(named.values())
    whole = hashlib.sha256()
    for name in sorted(named):
        # A name may hold any character; its length keeps two listings apart.
        whole.update(f"{len(name)}:{name}:{found[named[name]]}\n".encode())
    return f"sha256:{whole.hexdigest()[:SHOWN]}"


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file, read once and remembered until the file changes.

    A digest is remembered by path, size, modification and change time, inode and
    device, in this process and in the user's cache folder.

    Args:
        paths: The files; links are followed.

    Returns:
        64 hexadecimal digits for each path.

    Raises:
        BenchError: Naming every file that is missing, unreadable, or changes while it
            is read.
    """
    wanted = list(dict.fromkeys(paths))
    folders: dict[Path, list[Path]] = {}
    for path in wanted:
        folders.setdefault(Path(os.path.abspath(path.parent)), []).append(path)
    found: dict[Path, str] = {}
    errors: list[str] = []
    for folder, members in folders.items():
        _folder(folder, members, found, errors)
    if errors:
        raise BenchError(*errors)
    for path, digest in found.items():
        record("file", os.path.abspath(path), digest)
    return found


def _folder(
    folder: Path, members: list[Path], found: dict[Path, str], errors: list[str]
) -> None:
    """Fill ``found`` with the digests of files of one folder."""
    stamps: dict[Path, _Stamp] = {}
    for path in members:
        try:
            stamps[path] = _stamp(path)
        except OSError as why:
            errors.append(f"{path} cannot be read: {why.strerror}")
    unknown = [p for p, s in stamps.items() if (_key(folder, p), s) not in _known]
    # The cache on disk is read only where this process does not know a file yet.
    if unknown:
        _known.update(_remembered(folder))
    new = [p for p in unknown if (_key(folder, p), stamps[p]) not in _known]
    # Before reading: a file that is written while it is read has a stamp of this moment
    # or later.
    began = time.time()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, result in zip(new, pool.map(_read, new), strict=True):
            if isinstance(result, OSError):
                errors.append(f"{path} cannot be read: {result.strerror}")
            # The stamp after reading differs from the one before: the digest is of
            # neither content.
            elif result[1] != stamps[path]:
                errors.append(
                    f"{path} changed while it was read: start again when it is complete"
                )
            else:
                found[path] = result[0]
    settled = {p for p in new if p in found and _last(stamps[p]) < began - _SETTLED}
    for path in settled:
        _known[_key(folder, path), stamps[path]] = found[path]
    if settled:
        _remember(folder)
    for path in stamps.keys() - set(new):
        found[path] = _known[_key(folder, path), stamps[path]]


def _key(folder: Path, path: Path) -> str:
    return str(folder / path.name)


def _stamp(path: Path) -> _Stamp:
    """What changes when a file is written or replaced."""
    seen = path.stat()
    times = (seen.st_mtime_ns, seen.st_ctime_ns)
    return seen.st_size, *times, seen.st_ino, seen.st_dev


def _last(stamp: _Stamp) -> float:
    """When the file was changed last, in seconds."""
    return max(stamp[1], stamp[2]) / 1e9


def _read(path: Path) -> tuple[str, _Stamp] | OSError:
    """The digest of a file, with its stamp afterwards."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest(), _stamp(path)
    except OSError as why:
        return why


def cache_folder() -> Path:
    """The folder of this user for what can be computed again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "shrinkgrid"


def _cached(folder: Path) -> Path:
    # One cache file for each folder: its path may be longer than a file name can be.
    name = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()
    return cache_folder() / "digests" / f"{name[:32]}.json"


def _remembered(folder: Path) -> dict[tuple[str, _Stamp], str]:
    """The digests that an earlier process kept; none where the file is damaged."""
    try:
        kept = json_reader.read(_cached(folder).read_bytes())
        return {
            (str(folder / name), tuple(entry[:5])): str(entry[5])
            for name, entry in kept.items()
        }
    except (OSError, ValueError, AttributeError, TypeError, LookupError):
        return {}


def _remember(folder: Path) -> None:
    """Keep the digests of a folder, whole or not at all; a lost one is read again."""
    prefix = f"{folder}{os.sep}"
    entries = {
        key[len(prefix) :]: [*stamp, digest]
        for (key, stamp), digest in _known.items()
        if key.startswith(prefix) and os.sep not in key[len(prefix) :]
    }
    keep(_cached(folder), json.dumps(entries))


def keep(path: Path, text: str) -> None:
    """Write a file of the cache, whole or not at all; a failure costs only time."""
    with suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since a rename replaces a file at once only within a file
        # system.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)

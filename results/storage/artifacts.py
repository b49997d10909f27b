"""Expensive results that trials share: folders of files, named by what made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from results.storage import temporary
from results.storage.store import Store
from results.text import json_reader

MANIFEST = "manifest.json"


def find(store: Store, key: str) -> Path | None:
    """The folder of an artifact, its files checked against its manifest.

    Args:
        store: Store that may contain the artifact.
        key: Id of the artifact to find.

    Returns:
        A folder to read, never to write; None where there is no such artifact or it
        is damaged. A damaged one is set aside with a warning, to be computed again.
    """
    if store.folder.local is None:
        _fetch(store, key)
    path = store.here("artifacts") / key
    if not path.is_dir():
        return None
    wrong = _damage(path)
    if wrong is None:
        return path
    aside = store.here("damaged") / f"artifacts-{key}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(FileNotFoundError):  # another worker was first
        # Renamed and not deleted: another trial may be reading it.
        path.rename(aside)
    store.warnings.append(
        f"artifact {key} is damaged ({wrong}); it was set aside as {aside} and will be "
        "computed again"
    )
    return None


@contextlib.contextmanager
def make(store: Store, key: str, **facts: Any) -> Iterator[Path]:
    """A folder to write an artifact's files into; it appears when the block ends well.

    Where two workers make the same artifact at once, the first to finish wins and the
    other's is dropped: equal ids mean equal contents.

    Args:
        store: Where to keep it.
        key: Id of the artifact to make.
        **facts: JSON values for the manifest, what made it say.

    Yields:
        An empty folder beside the others, on the same file system.
    """
    target = store.here("artifacts") / key
    beside = temporary.beside(target)
    beside.mkdir()
    try:
        yield beside
        # Hashed after the block has written them: what is in the folder is what a
        # reader gets.
        files = {
            str(p.relative_to(beside)): _sha256(p)
            for p in sorted(beside.rglob("*"))
            if p.is_file()
        }
        manifest = json.dumps({"key": key, **facts, "sha256": files}, indent=1)
        (beside / MANIFEST).write_text(manifest)
        if store.folder.local is None:
            _send(store, key, beside, list(files))
        # The commit. ``rename`` never replaces a folder that has files in it.
        with contextlib.suppress(OSError):  # it is there: another worker was first
            beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def manifest(path: Path) -> dict[str, Any]:
    """What an artifact's manifest says."""
    stored: dict[str, Any] = json_reader.read((path / MANIFEST).read_bytes())
    return stored


def _damage(path: Path) -> str | None:
    """What is wrong with an artifact's files, or None."""
    try:
        for name, digest in _digests(manifest(path)).items():
            if _sha256(path / name) != digest:
                return f"{name} is not what was written"
    except (OSError, ValueError) as why:
        return f"{type(why).__name__}: {why}"
    return None


def _digests(stored: Any) -> dict[str, str]:
    """File -> digest, as a manifest has them; refuses what lies elsewhere."""
    found = stored.get("sha256") if isinstance(stored, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{MANIFEST} lists no files")
    for name in found:
        parts = PurePosixPath(name).parts
        # A manifest may come from another machine through a bucket: it must not make
        # this process read or write outside the artifact's folder.
        if not parts or ".." in parts or parts[0] == "/" or "\0" in name:
            raise ValueError(f"{MANIFEST} names {name!r}, which lies elsewhere")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _send(store: Store, key: str, path: Path, names: list[str]) -> None:
    """Upload; the manifest goes last, so that half an artifact is none."""
    for name in [*names, MANIFEST]:
        store.folder.write(f"artifacts/{key}/{name}", (path / name).read_bytes())


def _fetch(store: Store, key: str) -> None:
    """Download into this machine's cache, unless it is there."""
    target = store.here("artifacts") / key
    text = store.folder.read(f"artifacts/{key}/{MANIFEST}")
    # The manifest is uploaded last: an artifact without one is not complete.
    if text is None or target.is_dir():
        return
    names: list[str] = []
    with contextlib.suppress(ValueError):  # then it is damaged, which `find` sees
        names = list(_digests(json_reader.read(text)))
    beside = temporary.beside(target)
    for name in [*names, MANIFEST]:
        content = store.folder.read(f"artifacts/{key}/{name}")
        if content is not None:  # a missing one is damage, which `find` sees
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_bytes(content)
    with contextlib.suppress(OSError):
        beside.rename(target)
    shutil.rmtree(beside, ignore_errors=True)

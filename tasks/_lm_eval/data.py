"""Identity of the data that lm-eval reads, without importing ``datasets``."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.toolkit import identity, text_files

# The first bytes of gzip, zip, bzip2, xz and zstd: `datasets` unpacks these files, so
# that their bytes are not text.
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


def cache_folder() -> Path:
    """The folder of prepared data sets, by the rules of ``datasets``."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or home)
    return Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()


def revision(facts: Mapping[str, Any]) -> str | None:
    """Return the identity of the data that one task of lm-eval reads.

    Args:
        facts: ``dataset``, ``config`` and ``files``, as in a ``Card``.

    Returns:
        Commit and a hash over the sizes of the splits for a data set of the hub, a
        content hash for local files, ``code`` where the task's own code makes its
        data; None if this machine has no copy.

    >>> revision({"version": 1.0})
    'code'
    """
    if "dataset" not in facts:
        return "code"
    # Local files are identified by their content; a data set of the hub, or files
    # behind an address, by the copy in the cache.
    files = list(_listed(facts.get("files")))
    if files and not any("://" in name for name in files):
        return _content(files)
    where = cache_folder() / str(facts["dataset"]).replace("/", "___")
    config = facts.get("config")
    # Without a configuration `datasets` calls it `default`, or by its only name; one
    # with files or options of its own has a hash behind the name.
    names = [config, f"{config}-*"] if config else ["default", "default-*", "*"]
    for name in names:
        # NAME/VERSION/COMMIT/dataset_info.json. Of several copies the newest is the one
        # that was prepared last.
        found = sorted(
            where.glob(f"{name}/*/*/dataset_info.json"), key=lambda p: p.stat().st_mtime
        )
        if found:
            return _copy(found[-1])
    return None


def check_text(facts: Mapping[str, Any]) -> None:
    """Refuse local files that are not UTF-8 text where text is wanted.

    ``datasets`` replaces wrong bytes in silence, and reads a byte order mark at the
    start of a plain text as text.

    Args:
        facts: ``dataset`` and ``files`` of one task, as in a ``Card``.

    Raises:
        BenchError: Naming a file and its first wrong byte.
    """
    if facts.get("dataset") not in ("json", "csv", "text"):
        return
    for name in _listed(facts.get("files")):
        path = Path(name).expanduser()
        if not path.is_file():
            continue
        content = path.read_bytes()
        if content.startswith(_PACKED):
            continue
        text_files.decode(content, name)
        if facts["dataset"] == "text" and content.startswith(codecs.BOM_UTF8):
            raise BenchError(
                f"{name} starts with a byte order mark, which would be read as text; "
                "save it as UTF-8 without one"
            )


def _listed(files: Any) -> list[str]:
    if files is None:
        return []
    if isinstance(files, Mapping):
        return [name for value in files.values() for name in _listed(value)]
    return [str(name) for name in (files if isinstance(files, list) else [files])]


def _content(files: list[str]) -> str | None:
    """One hash over the content of local files; None if one is missing."""
    paths = {name: Path(name).expanduser() for name in files}
    if not all(path.is_file() for path in paths.values()):
        return None
    return identity.of_files({str(n): paths[name] for n, name in enumerate(files)})


def _copy(info: Path) -> str:
    """The commit that a prepared data set is of, with a hash over its splits."""
    splits = json.loads(info.read_text()).get("splits") or {}
    # The commit names the folder; the sizes of the splits tell copies apart that were
    # prepared in part or by another version of `datasets`.
    sizes = sorted(
        (name, part.get("num_examples"), part.get("num_bytes"))
        for name, part in splits.items()
    )
    digest = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:8]
    return f"{info.parent.name[:12]}-{digest}"

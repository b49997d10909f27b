"""Identity of the data that lm-eval reads, without importing ``datasets``."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Mapping
from glob import glob
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
        facts: ``dataset``, ``config``, ``files`` and ``folder``, as in a ``Card``.

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
    local = _local(facts)
    if local is not None:
        return identity.of_files(local) if local else None
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
    for path in (_local(facts) or {}).values():
        name, content = str(path), path.read_bytes()
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


def _local(facts: Mapping[str, Any]) -> dict[str, Path] | None:
    """The files of this machine that ``datasets`` reads, by a name for each.

    Args:
        facts: As in a ``Card``.

    Returns:
        Empty if one of them is missing; None for a data set of the hub, and for files
        behind an address.
    """
    dataset, asked = str(facts["dataset"]), list(_listed(facts.get("files")))
    below = Path(str(facts.get("folder") or "")).expanduser()
    # `datasets` looks for a folder of this name before it asks the hub.
    own = "/" not in dataset and (asked or "folder" in facts)  # `json`, `text` ...
    if any("://" in name for name in asked) or not (own or Path(dataset).is_dir()):
        return None
    if not own:
        below = Path(dataset) / below
    if not asked:  # the names in the folder say which split each file is of
        return {str(p.relative_to(below)): p for p in _matches("**", below)}
    found = [_matches(name, below) for name in asked]
    if not all(found):
        return {}
    return {str(n): path for n, path in enumerate(p for some in found for p in some)}


def _matches(name: str, below: Path) -> list[Path]:
    """The files that a path or a pattern names."""
    path = below / Path(name).expanduser()
    if path.is_file():
        return [path]
    found = glob(str(Path(name).expanduser()), root_dir=below, recursive=True)
    return sorted(below / one for one in found if (below / one).is_file())


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

"""What planning asked of the plugins, kept in the cache folder.

To know a plugin's options and facts, Python imports its file, and with it torch, which
takes most of the time of ``plan``, of ``list``, and of ``run`` on a finished grid. The
answers depend on the code, on the grid file and on data. An answer is taken from the
cache folder only where all three are as they were:

- the code: the content of every file of the project, the name and version of every
  installed package, and Python itself, enter the name of the cached file;
- the grid file, its lock and the environment: they enter it, too;
- the data: each identity of a file or a text that a plugin asked for is computed again.
  It is kept with the answers, and must be equal.

Nothing is kept for plugins that are not part of the project, whose code this does not
cover, nor for a plugin whose revision or fingerprint depends on more than files and
texts (``by_content``), as on a hub. ``SHRINKGRID_REMEMBER=0`` turns the memory off.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from harness.core import BenchError
from harness.options import dumps
from harness.planning.provenance import OURS
from harness.registry import PACKAGES
from harness.toolkit import identity, texts
from results.text import json_reader

P = ParamSpec("P")
R = TypeVar("R")
OFF = "SHRINKGRID_REMEMBER"  # ``0`` turns the memory off
_KEPT = 100  # files of the memory; the newest stay
# Variables that say where data, packages and caches are.
_PREFIXES = ("HF_", "HOME", "PYTHON", "SHRINKGRID_", "TRANSFORMERS_", "XDG_")

# Answers of the functions that are ``remembered``, of this and of earlier processes.
_given: dict[str, Any] = {}
_recalled: dict[str, Any] = {}


@dataclass(slots=True, kw_only=True)
class Entry:
    """One question with its answer, and the file that keeps it.

    Args:
        path: The file; its name has the question and the code.
        asked: The identities that the content depends on: (kind, name) -> identity.
        content: Plain JSON; None before the question is answered.
        kept: Whether the file has the content.
    """

    path: Path
    asked: Mapping[tuple[str, str], str] = field(default_factory=dict)
    content: Any = None
    kept: bool = False


def usable() -> bool:
    """Whether this process may take answers from the memory, and keep some.

    With torch imported nothing would be gained; and a process that has worked before,
    such as a notebook, may have changed the plugins that it imported.
    """
    off = os.environ.get(OFF) == "0" or os.environ.get("SHRINKGRID_PLUGINS")
    return not off and "torch" not in sys.modules


def recall(*question: Any) -> Entry:
    """What an earlier process kept for a question.

    Args:
        *question: Plain JSON.

    Returns:
        The entry. It has no content if nothing is kept for this code, or if the data
        has changed; the caller adds the content and passes it to ``keep``.
    """
    name = hashlib.sha256(f"{_code()}{dumps(question)}".encode()).hexdigest()[:32]
    entry = Entry(path=identity.cache_folder() / "plans" / f"{name}.json")
    try:
        kept = json_reader.read(entry.path.read_bytes())
        asked = {(kind, name): found for kind, name, found in kept["asked"]}
        if all(_READERS[kind](name) == found for (kind, name), found in asked.items()):
            entry.asked, entry.content, entry.kept = asked, kept["content"], True
            _recalled.update(kept["answers"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, BenchError):
        pass  # damaged, or the data is not there: asked again
    return entry


def keep(entry: Entry) -> None:
    """Keep an entry, unless a plugin is from elsewhere or asked for more than content.

    Args:
        entry: With its content. The answers of this process are kept with it.
    """
    answers = _recalled | _given
    if entry.content is None or (entry.kept and answers == _recalled):
        return
    if _foreign() or not all(kind in _READERS for kind, _ in entry.asked):
        return
    asked = [[*key, found] for key, found in entry.asked.items()]
    kept = {"asked": asked, "answers": answers, "content": entry.content}
    identity.keep(entry.path, json.dumps(kept))
    _recalled.update(answers)
    entry.kept = True
    with suppress(OSError):  # another process may remove the same files
        files = entry.path.parent.glob("*.json")
        for old in sorted(files, key=lambda f: -f.stat().st_mtime)[_KEPT:]:
            old.unlink()


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Keep the answers of a function that depend on its arguments and on code alone.

    Args:
        function: Takes names and ``PluginSpec``, which has the revision of its data.

    Returns:
        The function; equal arguments are computed once.
    """

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        key = f"{function.__module__}.{function.__qualname__}{dumps([args, kwargs])}"
        found: R
        if key in _recalled:
            found = _recalled[key]
        else:
            found = _given[key] = function(*args, **kwargs)
        return found

    return lru_cache(maxsize=65536)(answer)  # type: ignore[return-value]


_READERS: Mapping[str, Callable[[str], str]] = {
    "file": lambda name: identity.digests([Path(name)])[Path(name)],
    "text": texts.fingerprint,
}


def _foreign() -> bool:
    """Whether an installed package adds plugins, whose code ``_code`` does not read."""
    return any(entry_points(group=f"shrinkgrid.{kind}s") for kind in PACKAGES)


def _code() -> str:
    """A digest of everything but the data that decides what a plugin answers."""
    whole = hashlib.sha256()
    for part in (sys.version, sys.prefix, os.getcwd(), *_variables(), *_installed()):
        whole.update(f"{part}\n".encode(errors="surrogateescape"))
    for path in _files():
        content = path.read_bytes()
        whole.update(f"{path} {len(content)}\n".encode(errors="surrogateescape"))
        whole.update(content)
    return whole.hexdigest()


def _variables() -> list[str]:
    return [
        f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(_PREFIXES)
    ]


def _installed() -> Iterator[str]:
    """Name, version and time of installation of every package; the folders' names."""
    for folder in filter(os.path.isdir, sys.path):
        for one in sorted(os.scandir(folder), key=lambda one: one.name):
            if one.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth")):
                yield f"{one.path} {one.stat().st_mtime_ns}"


def _files() -> Iterator[Path]:
    """Every file of the project's packages, in a fixed order."""
    above = Path(__file__).parents[2]
    for package in OURS:
        for folder, inner, names in os.walk(above / package):
            inner[:] = sorted(name for name in inner if name != "__pycache__")
            yield from (Path(folder, name) for name in sorted(names))

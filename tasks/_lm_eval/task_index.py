"""The tasks of the installed lm-eval: their files, and the data that they read."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.registry import discover
from harness.toolkit import hub

_FORMAT = 4  # of the cards in the cache; raise it when a card gains a fact


@dataclass(frozen=True, kw_only=True)
class Card:
    """What must be known of a task or group before lm-eval itself is imported.

    Args:
        name: Name by which lm-eval loads the task, group or tag.
        folders: Those with its YAML files, relative to lm-eval's, or absolute.
        tasks: Each task in it -> its ``version``, the number of solved examples that
            it sets itself as ``num_fewshot``, whether it ``samples`` the tokens of
            answers, and, where they are known, its ``output_type``, the ``dataset`` it
            reads, the ``config`` of that, its ``files`` and ``folder``.
    """

    name: str
    folders: tuple[str, ...]
    tasks: dict[str, dict[str, Any]] = field(hash=False)


@cache
def home() -> Path:
    """The folder of lm-eval's own tasks."""
    # Found without an import, which takes seconds.
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise BenchError("tasks of lm-eval need the package: pip install lm-eval")
    return Path(spec.origin).parent / "tasks"


def release() -> str:
    """The version of the installed lm-eval."""
    return version("lm-eval")


def card(name: str) -> Card | None:
    """Return the card of a task, group or tag, or of a YAML file of the user's own.

    lm-eval reads 14,000 files to learn its names, which takes it 20 seconds; here only
    the folders with this name are read, and the card is kept in the user's cache.

    Args:
        name: A name of lm-eval, or the path of a file ``*.yaml``.

    Returns:
        The card, or None if lm-eval has no such task.
    """
    if Path(name).suffix != ".yaml":
        return _named(name)
    path = Path(name).expanduser()
    if not path.is_file():
        return None
    stat = path.stat()
    return _own(path, stat.st_mtime_ns, stat.st_size)


@cache
def _named(name: str) -> Card | None:
    """The card of a name of lm-eval, from the cache on the disk if it is there."""
    # The name becomes a file name below: a path in it must not leave the folder.
    if not re.fullmatch(r"[\w.+\-]+", name):
        return None
    # One small file for each name: a run needs the cards of its own tasks only. The
    # folder's name has lm-eval's version, so that another release is searched again.
    kept = _cache() / f"{name}.json"
    if kept.is_file():
        value = json.loads(kept.read_text())
        return Card(**value | {"folders": tuple(value["folders"])})
    made = _search(name)
    if made is not None:
        _keep(made, kept)
    return made


def unknown(name: str) -> str:
    """Say that neither shrinkgrid nor lm-eval has this task.

    Args:
        name: As a grid writes it.

    Returns:
        The sentence, with the nearest names of both.
    """
    own = list(discover("task"))
    theirs = {n for text in _files().values() for n in _NAME.findall(text)}
    near = difflib.get_close_matches(name, {*own, *theirs}, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"no task called {name!r}.{hint} Known: {', '.join(own)}, and the "
        f"{len(theirs)} names of lm-eval {release()} (`lm-eval ls tasks` lists them)"
    )


def manager(known: Card | None = None) -> Any:
    """Build lm-eval's task manager over the folders of one card.

    Args:
        known: The card; without one it knows no name, and must be given whole tasks.

    Returns:
        An ``lm_eval.tasks.TaskManager`` that knows the names of these folders only.
    """
    hub.settle()
    from lm_eval.tasks import TaskManager

    if known is None:
        return TaskManager(include_defaults=False)
    folders = [str(home() / folder) for folder in known.folders]
    with _silent():  # it warns of two tasks of one name, which `_own` refuses
        managers = [
            TaskManager(include_path=f, include_defaults=False) for f in folders
        ]
    merged = managers[0].task_index
    for other in managers[1:]:  # given all at once, a tag would forget all but the last
        for name, entry in other.task_index.items():
            merged.setdefault(name, entry).tags.update(entry.tags)
    return managers[0]


def sources(path: Path) -> dict[str, Path]:
    """The files that say how a task of the user's own is asked and scored.

    Args:
        path: Path of the task's YAML file.

    Returns:
        By name: the file, what it includes, the Python files in its folder (for
        ``!function``), and for a group every YAML file there, which its tasks are in.
    """
    folder = path.resolve().parent
    found = [path.resolve(), *sorted(folder.glob("*.py"))]
    if re.search(r"^group:", found[0].read_text(encoding="utf-8"), re.MULTILINE):
        found += sorted(folder.rglob("*.yaml"))
    for file in found:  # grows while it is read
        if file.suffix == ".py" or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        included = [(file.parent / said).resolve() for said in _INCLUDE.findall(text)]
        found += [each for each in included if each not in found]
    return {os.path.relpath(file, folder): file for file in found if file.is_file()}


@contextmanager
def _silent() -> Iterator[None]:
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


_INCLUDE = re.compile(r"^include:[ \t]*[\"']?([^\s\"']+)", re.MULTILINE)
_NAME = re.compile(r"^(?:task|group):[ \t]*[\"']?([\w.+\-]+)", re.MULTILINE)


def _cache() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "shrinkgrid" / f"lm-eval-{release()}-{_FORMAT}"


def _keep(made: Card, path: Path) -> None:
    """Write a card to a new file and rename it; a cache is only a convenience."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the rename replaces the file at once: another
        # process reads a whole card or none.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(asdict(made), file)
        Path(file.name).replace(path)
    except OSError:
        return


@cache
def _files() -> dict[Path, str]:
    """The text of every YAML file of lm-eval; its templates have no suffix."""
    return {
        path: path.read_text(encoding="utf-8", errors="replace")
        for path in home().rglob("*")
        if path.suffix in (".yaml", "") and path.is_file()
    }


@cache
def _includes() -> dict[Path, list[Path]]:
    """Template -> the files that include it."""
    found: dict[Path, list[Path]] = {}
    for path, text in _files().items():
        for said in _INCLUDE.findall(text):
            template = Path(os.path.normpath(path.parent / said))
            found.setdefault(template, []).append(path)
    return found


def _folders(names: Iterable[str]) -> set[str]:
    """The folders with files that say one of ``names``, themselves or by a template."""
    words = "|".join(re.escape(name) for name in names)
    said = re.compile(rf"(?<![\w.+\-])(?:{words})(?![\w+\-])")
    found = [path for path, text in _files().items() if said.search(text)]
    for path in found:  # grows while it is read
        found.extend(p for p in _includes().get(path, ()) if p not in found)
    return {str(path.parent.relative_to(home())) for path in found}


def _search(name: str) -> Card | None:
    """Look for a name, and for the names in its group."""
    folders: set[str] = set()
    wanted = {name}
    index: Any = {}
    # A group names its tasks, which may be in other folders: search for the names that
    # the folders so far do not declare, until none is missing or none is found.
    while wanted:
        found = _folders(wanted) - folders
        if not found:
            break
        folders |= found
        index = manager(
            Card(name=name, folders=_outermost(folders), tasks={})
        ).task_index
        if name not in index:
            return None
        wanted = {leaf for leaf, _ in _leaves(index, name) if leaf not in index}
    if name not in index:
        return None
    return Card(name=name, folders=_outermost(folders), tasks=_tasks(index, name))


def _tasks(index: Any, name: str) -> dict[str, dict[str, Any]]:
    """The facts of every task below a name, as a group of it changes them."""
    found = {
        n: _facts({**index[n].cfg, **changes})
        for n, changes in _leaves(index, name)
        if n in index
    }
    return dict(sorted(found.items()))


def _outermost(folders: Iterable[str]) -> tuple[str, ...]:
    """``folders`` without those inside another: lm-eval reads folders to the bottom.

    >>> _outermost(["mmlu/default", "arc", "mmlu"])
    ('arc', 'mmlu')
    """
    given = set(folders)
    return tuple(
        sorted(f for f in given if not given & {str(p) for p in Path(f).parents})
    )


@cache
def _own(path: Path, changed: int, size: int) -> Card:
    """The card of the task or group that a file of the user's declares."""
    del changed, size  # part of the key
    whole = path.resolve()
    name = _declared(whole)
    if name is None:
        raise BenchError(
            f"{path} declares no task of lm-eval: it needs the key 'task' or 'group'"
        )
    folder = str(whole.parent)
    index = manager(Card(name="", folders=(folder,), tasks={})).task_index
    tasks = _tasks(index, name)
    # lm-eval reads the whole folder of the file, and with it tasks of other files.
    _refuse_twins(whole.parent, {name, *tasks})
    entry = index.get(name)
    if entry is None or Path(entry.yaml_path) != whole:
        raise BenchError(f"lm-eval cannot read the task {name!r} of {path}")
    return Card(name=name, folders=(folder,), tasks=tasks)


def _declared(path: Path) -> str | None:
    """The name of the task or group in a YAML file, as lm-eval finds it; else None."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        said = load_yaml(path, resolve_func=False)
    except Exception as why:  # its loader raises whatever the file provokes
        raise BenchError(
            f"{path} is not a YAML file that lm-eval reads: {why}"
        ) from why
    name = said.get("group", said.get("task")) if isinstance(said, dict) else None
    return name if isinstance(name, str) else None


def _refuse_twins(folder: Path, names: set[str]) -> None:
    """Refuse a name that two files declare: lm-eval takes one of them unasked."""
    files: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        try:
            name = _declared(path)
        except BenchError:  # a file that is not a task is none of its twins
            continue
        if name in names:
            files.setdefault(str(name), []).append(str(path.relative_to(folder)))
    twins = {name: found for name, found in files.items() if len(found) > 1}
    if twins:
        raise BenchError(
            *(
                f"{len(found)} files in {folder} declare the task {name!r}: "
                f"{', '.join(found)}; rename one, or move it out of the folder"
                for name, found in twins.items()
            )
        )


# A task of a group, and what the group changes in it.
_Leaf = tuple[str, Mapping[str, Any]]


def _leaves(index: Any, name: str) -> Iterator[_Leaf]:
    """The tasks below a name, also those that the index lacks."""
    entry = index.get(name)
    if entry is None or entry.kind.name in ("TASK", "PY_TASK"):
        yield name, {}
    elif entry.kind.name == "TAG":
        yield from ((tag, {}) for tag in entry.tags)
    else:
        yield from _members(index, entry.cfg["task"])


def _members(index: Any, members: Any) -> Iterator[_Leaf]:
    """The tasks of a group's list: names, tasks with changes, groups in place."""
    for member in [members] if isinstance(members, str | dict) else members or []:
        if isinstance(member, str):
            yield from _leaves(index, member)
            continue
        if isinstance(member.get("task"), list):
            below = _members(index, member["task"])
        else:
            below = _leaves(index, str(member.get("group") or member.get("task")))
        # What the group changes in the task; an outer group wins over an inner one.
        own = {k: v for k, v in member.items() if k not in ("task", "group")}
        yield from ((name, {**changes, **own}) for name, changes in below)


def _facts(said: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's YAML says of its version, its examples and its data."""
    facts: dict[str, Any] = {"version": (said.get("metadata") or {}).get("version")}
    facts["num_fewshot"] = said.get("num_fewshot")
    if "class" not in said:  # else its code decides
        facts["output_type"] = said.get("output_type", "generate_until")
    options = said.get("generation_kwargs") or {}
    facts["samples"] = bool(options.get("do_sample", options.get("temperature")))
    # A task whose own code makes its data has no data set to identify.
    if "dataset_path" in said and "custom_dataset" not in said:
        facts["dataset"] = said["dataset_path"]
        facts["config"] = said.get("dataset_name")
        options = said.get("dataset_kwargs") or {}
        for fact, option in (("files", "data_files"), ("folder", "data_dir")):
            if options.get(option) is not None:
                facts[fact] = options[option]
    return facts

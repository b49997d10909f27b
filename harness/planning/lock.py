"""The lock beside a grid: which revision of each model and data set it was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness.core import BenchError
from harness.options import dumps
from results.text import json_reader

FORMAT = 1


def beside(grid: Path) -> Path:
    """Where the lock of a grid file lies.

    Args:
        grid: Path of a grid file.

    Returns:
        ``NAME.lock`` beside it; in the current folder for a packaged grid.
    """
    packaged = Path(__file__).parents[1] / "grids"
    own = grid.resolve().parent != packaged.resolve()
    return (grid.parent if own else Path.cwd()) / f"{grid.stem}.lock"


def key(kind: str, name: str, options: str = "{}") -> str:
    """What the lock calls one configured model, task or text.

    Args:
        kind: ``model``, ``task`` or ``text``.
        name: As the grid writes it.
        options: Canonical JSON of its options.

    Returns:
        One line.

    >>> key("model", "smollm2-135m"), key("task", "piqa", '{"id":"piqa","limit":5}')
    ('model smollm2-135m', 'task piqa {"limit":5}')
    """
    given = {k: v for k, v in json.loads(options).items() if v != name}
    return f"{kind} {name} {dumps(given) if given else ''}".rstrip()


def write(path: Path, grid: str, revisions: Mapping[str, str]) -> None:
    """Write a lock, whole or not at all.

    Args:
        path: Path of the lock file, from ``beside``.
        grid: Name of the grid that is locked.
        revisions: Revision of each model and task by ``key``.
    """
    text = {"format": FORMAT, "grid": grid, "revisions": dict(revisions)}
    # A run that reads the lock meanwhile sees the old or the new file, never half of
    # one.
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    new.replace(path)


def read(grid: Path) -> dict[str, str]:
    """The revisions that a grid's lock names.

    Args:
        grid: Path of a grid file.

    Returns:
        Revisions by ``key``; empty without a lock file.

    Raises:
        BenchError: If the lock is damaged, or of a newer format.
    """
    path = beside(grid)
    if not path.is_file():
        return {}
    renew = f"remove it, or renew it with `shrinkgrid prepare {grid.stem}`"
    try:
        value = json_reader.read(path.read_bytes())
        found = {str(k): str(v) for k, v in value["revisions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise BenchError(f"{path} is not a lock file of shrinkgrid: {renew}") from why
    if value.get("format") != FORMAT:
        raise BenchError(f"{path} has format {value.get('format')!r}: {renew}")
    return found


def check(locked: Mapping[str, str], name: str, revision: str) -> None:
    """Refuse what differs from the lock.

    Args:
        locked: Revisions by ``key``; empty checks nothing.
        name: The entry's name, from ``key``.
        revision: What this machine has.

    Raises:
        BenchError: If the lock has another revision, or does not know the name.
    """
    if not locked or locked.get(name) == revision:
        return
    if name not in locked:
        raise BenchError(
            f"the lock beside the grid does not know {name!r}: run `shrinkgrid prepare "
            "GRID` again, or remove the lock"
        )
    raise BenchError(
        f"{name} is {revision} on this machine, and the lock says {locked[name]}: copy "
        "the caches that were prepared, or run `shrinkgrid prepare GRID` for a new lock"
    )


def check_text(locked: Mapping[str, str], name: str) -> None:
    """Refuse a text that differs from the lock.

    Args:
        locked: Revisions of the lock file by ``key``.
        name: As ``harness.toolkit.texts`` reads it.
    """
    from harness.toolkit import texts

    check(locked, key("text", name), texts.fingerprint(name))

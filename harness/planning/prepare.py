"""Fetch what a grid reads, prove that a worker finds it offline, and lock it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.declarations import anything, ask
from harness.planning import grid as grids
from harness.planning import lock, yaml_files
from harness.planning.configured_plugin import configure, revision_of
from harness.registry import Plugin
from harness.toolkit import texts
from harness.toolkit.hub import OFFLINE


def prepare(
    path: Path, *, load: bool = True, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Have all that a grid reads on this machine, and write its lock.

    Args:
        path: Path of a grid file.
        load: Whether the proof loads every pretrained model, as a worker will; without
            it only the files are looked for.
        say: Told of each thing before it is fetched.

    Returns:
        The lock.

    Raises:
        BenchError: With everything that is not available, or that an offline process
            does not find.
    """
    errors = []
    for what, fetch in _needs(path):
        say(what)
        try:
            fetch()
        except BenchError as why:
            errors.extend(why.errors)
    if errors:
        raise BenchError(*dict.fromkeys(errors))
    grid = grids.read(path, locked={})
    say("the same once more, offline")
    found, proven = revisions(grid), prove(path, load=load)
    if found != proven:
        differ = [
            k for k in found.keys() | proven.keys() if found.get(k) != proven.get(k)
        ]
        raise BenchError(
            f"offline, another revision is found of: {', '.join(sorted(differ))}; "
            "clear its folder in the cache and prepare again"
        )
    where = lock.beside(path)
    try:
        lock.write(where, grid.name, found)
    except OSError as why:
        raise BenchError(f"the lock {where} cannot be written: {why.strerror}") from why
    return where


def revisions(grid: grids.Grid) -> dict[str, str]:
    """The revision of everything that a grid reads, by ``lock.key``."""
    found = {}
    for block in grid.blocks:
        for kind, chosen in (("model", block.models), ("task", block.tasks)):
            for part in (c.part for c in chosen):
                found[lock.key(kind, part.name, part.options)] = part.revision
        text = _text(json.loads(block.calibration))
        found[lock.key("text", text)] = texts.fingerprint(text)
    return found


def prove(path: Path, *, load: bool = True) -> dict[str, str]:
    """Read a grid and all that it names in a process of its own, without a network.

    Args:
        path: Path of a grid file.
        load: Whether pretrained models are loaded.

    Returns:
        The revisions that were found.

    Raises:
        BenchError: With what that process did not find.
    """
    words = [sys.executable, "-m", "harness.planning.prepare", str(path.resolve())]
    done = subprocess.run(
        [*words, "load" if load else "files"],
        env={**os.environ, **dict.fromkeys(OFFLINE, "1")},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise BenchError(f"the offline proof of {path} broke: {said[-1]}") from None
    if "errors" in answer:
        raise BenchError(*(f"offline: {m}" for m in answer["errors"]))
    found: dict[str, str] = answer["revisions"]
    return found


def _main(path: Path, *, load: bool) -> dict[str, Any]:
    """What the offline process says, as JSON."""
    try:
        grid = grids.read(path, locked={})
        for block in grid.blocks:
            for chosen in block.models:
                _find(chosen.plugin, chosen.instance)
                if load and not chosen.facts["trained"]:
                    ask(str(chosen.plugin), "load()", chosen.instance.load, anything)
            for chosen in block.tasks:
                _find(chosen.plugin, chosen.instance)
        return {"revisions": revisions(grid)}
    except BenchError as why:
        return {"errors": why.errors}


def _needs(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each thing that a grid names once, with the work that fetches it.

    Names and options that are wrong are left to the grid's own reader.
    """
    value = yaml_files.read(path)
    blocks = value.get("blocks", [value]) if isinstance(value, dict) else []
    seen = set()
    for block in blocks if isinstance(blocks, list) else []:
        for kind, item in _items(block):
            if (kind, repr(item)) in seen:
                continue
            seen.add((kind, repr(item)))
            if kind == "text":
                yield f"text {item}", partial(texts.fingerprint, item)
                continue
            try:
                name, plugin, instance = configure(kind, item)
            except BenchError:
                continue
            yield f"{kind} {name}", partial(_find, plugin, instance)


def _items(block: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(block, dict):
        return
    for kind in ("model", "task"):
        listed = block.get(f"{kind}s")
        for item in listed if isinstance(listed, list) else []:
            yield kind, item
    yield "text", _text(block.get("calibration"))


def _text(calibration: Any) -> str:
    """The text that a block calibrates on."""
    from harness.toolkit.calibration import CalibrationSpec

    given = calibration.get("text") if isinstance(calibration, dict) else None
    return str(given or CalibrationSpec().text)


def _find(plugin: Plugin, instance: Any) -> None:
    """Have what one model or task reads, with its own download function if any."""
    if hasattr(instance, "fetch"):
        ask(str(plugin), "fetch()", instance.fetch, anything)
    elif plugin.kind == "task" or not plugin.facts["trained"]:
        revision_of(plugin, instance)
        trains = "training_data" in plugin.facts["gives"]
        # A measurement of speed has training data only where it names a task.
        named = getattr(instance, "trained_on", "") is not None
        if plugin.kind == "task" and trains and named:
            ask(str(plugin), "data()", instance.data, anything)


if __name__ == "__main__":
    print(json.dumps(_main(Path(sys.argv[1]), load=sys.argv[2] == "load")))  # noqa: T201

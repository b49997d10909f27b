"""Reads a grid from the memory of an earlier process, without any plugin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.planning import answers, lock, resources, values, yaml_files
from harness.planning import grid as grids
from harness.planning.answers import Entry
from harness.planning.grid import Grid, Point
from harness.planning.trial import PluginSpec, Trial
from harness.toolkit import identity

MOST = 20_000  # points; reading more of them takes longer than importing torch


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownGrid(Grid):
    """A grid that was checked by an earlier process; it has points and no blocks.

    Args:
        known: The points, in the order of ``Grid.points``.
        labels: The model and the method of each pair, as ``Grid.pairs`` yields them.
    """

    known: tuple[Point, ...]
    labels: tuple[tuple[str, str], ...]

    def points(self) -> Iterator[Point]:
        """Every trial once, as in the grid that was checked."""
        return iter(self.known)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Labels of every model and method that occur together."""
        return iter(self.labels)


def read(path: Path, changed: Mapping[str, Any] | None = None) -> tuple[Grid, Entry]:
    """Read a grid file, from the memory where it has the grid.

    Args:
        path: A YAML file; see ``docs/how-to/grid.md`` for its keys.
        changed: Keys with values that replace those of the file, in every block.

    Returns:
        The grid, and its entry in the memory, which the caller passes to
        ``answers.keep`` after it has planned; an entry without content is not kept.

    Raises:
        BenchError: With every error of the file.
    """
    if not answers.usable():
        return grids.read(path, changed=changed), Entry(path=path)
    value = yaml_files.read(path)
    entry = answers.recall(
        "grid", path.stem, repr(value), repr(changed), lock.read(path)
    )
    if entry.content is not None:
        whole = values.with_changes(value, changed or {})
        rules, _ = resources.read(whole.get("resources"))
        return _from_json(entry.content, rules), entry
    with identity.recording() as asked:
        grid = grids.read(path, changed=changed)
    if sum(block.size for block in grid.blocks) <= MOST:
        entry.asked, entry.content = asked, _to_json(grid)
    return grid, entry


def _to_json(grid: Grid) -> dict[str, Any]:
    parts: dict[PluginSpec, int] = {}  # each is written once
    points = []
    for point in grid.points():
        trial = point.trial
        plugins = (trial.method, trial.model, trial.task)
        where = [parts.setdefault(part, len(parts)) for part in plugins]
        rest = (trial.ratio, trial.seed, trial.dtype, trial.calibration)
        points.append([*where, *rest, point.unsupported])
    return {
        "name": grid.name,
        "description": grid.description,
        "parts": [asdict(part) for part in parts],
        "points": points,
        "pairs": list(grid.pairs()),
    }


def _from_json(kept: Mapping[str, Any], rules: resources.Rules) -> KnownGrid:
    parts = [PluginSpec(**part) for part in kept["parts"]]
    points = []
    for method, model, task, ratio, seed, dtype, calibration, why in kept["points"]:
        trial = Trial(
            method=parts[method],
            model=parts[model],
            task=parts[task],
            ratio=ratio,
            seed=seed,
            dtype=dtype,
            calibration=calibration,
        )
        points.append(Point(trial=trial, unsupported=why))
    return KnownGrid(
        name=kept["name"],
        description=kept["description"],
        blocks=(),
        resources=rules,
        known=tuple(points),
        labels=tuple((model, method) for model, method in kept["pairs"]),
    )

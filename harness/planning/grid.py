"""The grid file: read, checked as a whole, expanded into trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.declarations import declared
from harness.options import build, canonical, dumps, nearest
from harness.planning import doubles, exclude, lock, resources, values, yaml_files
from harness.planning.configured_plugin import (
    ConfiguredPlugin,
    choose,
    overlaps,
    pinned_text,
    unmet,
)
from harness.planning.trial import Trial

BLOCK_KEYS = (
    *("models", "methods", "ratios", "tasks"),
    *("seeds", "exclude", "calibration", "dtype"),
)
GRID_KEYS = ("name", "description", "blocks", "resources", *BLOCK_KEYS)
DTYPES = ("float32", "bfloat16", "float16", "float64")
MAX_TRIALS = 2_000_000  # of a grid; more is a slip of the pen, and fills the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One product of models, methods, ratios, tasks and seeds."""

    models: tuple[ConfiguredPlugin, ...]
    methods: tuple[ConfiguredPlugin, ...]
    ratios: tuple[float, ...]
    tasks: tuple[ConfiguredPlugin, ...]
    seeds: tuple[int, ...]
    exclude: tuple[dict[str, Any], ...] = ()
    calibration: str = "{}"
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """How many points its product has at most."""
        axes = self.models, self.methods, self.ratios, self.tasks, self.seeds
        return math.prod(map(len, axes))

    def pairs(self) -> Iterator[tuple[ConfiguredPlugin, ConfiguredPlugin]]:
        """Every method with every model."""
        return product(self.methods, self.models)

    def combinations(self) -> list[dict[str, Any]]:
        """For each method and model, the values that its trials have together."""
        tasks = [task.part.name for task in self.tasks]
        return [
            {
                "method": [method.part.name],
                "model": [model.part.name],
                "task": tasks,
                "ratio": ratios(method) or self.ratios,
                "seed": self.seeds if seeded(method, model) else self.seeds[:1],
            }
            for method, model in self.pairs()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A trial of a grid, with the reason if it cannot make sense."""

    trial: Trial
    unsupported: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A checked grid."""

    name: str
    description: str
    blocks: tuple[Block, ...]
    resources: resources.Rules

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Labels of every model and method that a block has together."""
        for block in self.blocks:
            for method, model in block.pairs():
                yield model.part.label, method.part.name

    def points(self) -> Iterator[Point]:
        """Every trial once, blocks in order, dense baselines first within a block."""
        seen: set[str] = set()
        for block in self.blocks:
            for point in _expand(block):
                trial_id = point.trial.id
                if trial_id not in seen:
                    seen.add(trial_id)
                    yield point


def locate(name: str) -> Path:
    """The file behind a path or the name of a packaged grid.

    Args:
        name: A path to a YAML file, or a packaged grid's name.

    Returns:
        The file.

    Raises:
        BenchError: If there is none; offers the nearest packaged name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        if path.is_file():
            return path
        raise BenchError(f"no grid file {name} (packaged: {', '.join(packaged())})")
    if name in packaged():
        return packaged()[name]
    raise BenchError(nearest("packaged grid", name, packaged()))


@cache
def packaged() -> dict[str, Path]:
    """The grids that come with the package, by name."""
    folder = Path(str(files("harness.grids")))
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def read(
    path: Path,
    *,
    locked: Mapping[str, str] | None = None,
    changed: Mapping[str, Any] | None = None,
) -> Grid:
    """Read a grid file.

    Args:
        path: A YAML file; see ``docs/how-to/grid.md`` for its keys.
        locked: Revisions to hold to, by ``lock.key``; None reads the lock beside.
        changed: Keys with values that replace those of the file, in every block.

    Returns:
        The grid, every name resolved and every option checked.

    Raises:
        BenchError: With every error of the file.
    """
    value = yaml_files.read(path)
    if not isinstance(value, dict):
        known = "models, methods, ratios and tasks"
        raise BenchError(f"{path} is not a mapping; write {known}")
    value = values.with_changes(value, changed or {})
    reader = _Reader(lock.read(path) if locked is None else locked)
    reader.unknown(value, GRID_KEYS, "")
    read_blocks = reader.blocks(value)
    rules, wrong = resources.read(value.get("resources"))
    reader.errors.extend(wrong)
    reader.errors.extend(doubles.wrong(read_blocks))
    if not reader.errors:
        pairs = {(e.part.name, o.part.name) for b in read_blocks for e, o in b.pairs()}
        reader.errors.extend(resources.unmatched(rules, pairs))
    name = value.get("name", path.stem)
    if not isinstance(name, str) or not name:
        reader.errors.append(f"name {name!r} is not a text")
    reader.errors += values.too_many(
        sum(block.size for block in read_blocks), MAX_TRIALS
    )
    if reader.errors:
        raise BenchError(*dict.fromkeys(reader.errors), where=str(path))
    return Grid(
        name=name,
        description=str(value.get("description", "")),
        blocks=tuple(read_blocks),
        resources=rules,
    )


class _Reader:
    """Reads a file and collects all its errors."""

    def __init__(self, locked: Mapping[str, str]) -> None:
        self.locked = locked
        self.errors: list[str] = []
        self.where = ""
        self.written: set[str] = set()  # keys outside the blocks
        self._chosen: dict[tuple[str, str], ConfiguredPlugin | None] = {}

    def unknown(
        self, value: Mapping[Any, Any], known: tuple[str, ...], at: str
    ) -> None:
        """Note every key that is none of ``known``; ``x-`` keys hold YAML anchors."""
        for key in value:
            if key not in known and not str(key).startswith("x-"):
                self.errors.append(at + values.unknown_key(str(key), known))

    def blocks(self, value: Mapping[str, Any]) -> list[Block]:
        """Read every block that has no errors.

        A key beside ``blocks`` is the default of every block; a block that has the key
        itself uses its own value.
        """
        self.written = set(map(str, value))
        common = {k: v for k, v in value.items() if k in BLOCK_KEYS}
        blocks = [{}] if value.get("blocks") is None else value["blocks"]
        if not isinstance(blocks, list) or not blocks:
            self.errors.append("'blocks' is an empty list, or not a list")
            return []
        read, sharing = [], []
        for index, own in enumerate(blocks):
            whole = common | own if isinstance(own, dict) else own  # its own keys win
            block = self.block(whole, index)
            if block is None:
                continue
            read.append(block)
            if "exclude" in own:
                self._excludes([block])
            else:
                sharing.append(block)
        self.where = ""
        self._excludes(sharing)  # a common rule may be meant for one of these blocks
        return read

    def block(self, value: Any, index: int) -> Block | None:
        """One block, or None if it has errors."""
        before = len(self.errors)
        at = f"block {index + 1}: " if index else ""
        if not isinstance(value, dict):
            self.errors.append(f"{at}{value!r} is not a mapping")
            return None
        self.unknown(value, BLOCK_KEYS, at)
        self.where = at
        chosen = {
            kind: self.choose(kind, self.items(value, f"{kind}s"))
            for kind in ("model", "method", "task")
        }
        fixed = all(m and ratios(m) for m in chosen["method"])
        reads = any("calibration" in m.facts["needs"] for m in chosen["method"] if m)
        found = {
            "ratios": self.ratios(value, optional=fixed),
            "seeds": self.seeds(value),
            "exclude": self.exclude(value),
            "calibration": self.calibration(
                value.get("calibration"), chosen["task"], read=reads
            ),
            "dtype": self.dtype(value.get("dtype", "float32")),
        }
        if len(self.errors) > before or not all((*chosen.values(), found["ratios"])):
            return None
        made = {f"{k}s": tuple(c for c in v if c) for k, v in chosen.items()}
        return Block(**made, **found)  # type: ignore[arg-type]

    def items(self, block: Mapping[str, Any], key: str) -> list[Any]:
        """The list under ``key``, which must have something in it."""
        if key not in block:
            if key.removesuffix("s") not in {*block, *self.written}:  # said already
                self.errors.append(f"{self.where}missing key {key!r}")
            return []
        value = block[key]
        if not isinstance(value, list) or not value:
            self.errors.append(self.where + values.not_a_list(key, value))
            return []
        return value

    def choose(self, kind: str, items: list[Any]) -> list[ConfiguredPlugin | None]:
        """Each item of a list of plugins, checked; each distinct one only once."""
        found = []
        for item in items:
            key = (kind, repr(item))
            if key not in self._chosen:
                self._chosen[key] = self._choose(kind, item)
            found.append(self._chosen[key])
        return found

    def _choose(self, kind: str, item: Any) -> ConfiguredPlugin | None:
        try:
            return choose(kind, item, self.locked)
        except BenchError as why:
            self.errors.extend(self.where + m for m in why.errors)
        return None

    def ratios(self, block: Mapping[str, Any], *, optional: bool) -> tuple[float, ...]:
        """The ratios; none are needed when every method fixes its own."""
        if optional and "ratios" not in block:
            return (0.0,)
        found = self._numbers(block, "ratios", values.bad_ratio)
        return tuple(float(ratio) for ratio in found if ratio is not None)

    def seeds(self, block: Mapping[str, Any]) -> tuple[int, ...]:
        """The seeds; one, 0, when none are given."""
        if "seeds" not in block:
            return (0,)
        return tuple(int(s) for s in self._numbers(block, "seeds", values.bad_seed))

    def _numbers(
        self, block: Mapping[str, Any], key: str, bad: Callable[[Any], str | None]
    ) -> list[Any]:
        items = self.items(block, key)
        wrong = [why for v in items if (why := bad(v))]
        self.errors.extend(self.where + why for why in wrong)
        return [] if wrong else list(dict.fromkeys(items))

    def exclude(self, block: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """The rules, each a mapping whose every key must match for a trial to go."""
        rules = block.get("exclude", [])
        if not isinstance(rules, list) or not all(isinstance(r, dict) for r in rules):
            wanted = "a list like [{method: svd, ratio: 0.5}]"
            self.errors.append(f"{self.where}exclude is {wanted}")
            return ()
        for rule in rules:
            self.unknown(rule, exclude.KEYS, f"{self.where}exclude: ")
        return tuple(rules)

    def _excludes(self, blocks: list[Block]) -> None:
        """Note rules that match no trial of some blocks, and rules that leave none."""
        if not blocks:
            return
        there = [each for block in blocks for each in block.combinations()]
        wrong = exclude.wrong(blocks[0].exclude, there)
        if not wrong and any(next(_expand(b), None) is None for b in blocks):
            wrong = ["the rules drop every trial of a block"]
        self.errors.extend(f"{self.where}exclude: {why}" for why in wrong)

    def calibration(
        self, value: Any, tasks: list[ConfiguredPlugin | None], *, read: bool
    ) -> str:
        """Canonical JSON, with the content of the text where a method reads it."""
        from harness.toolkit.calibration import CalibrationSpec

        value = {} if value is None else value
        if not isinstance(value, dict):
            self.errors.append(f"{self.where}calibration {value!r} is not a mapping")
            return "{}"
        try:
            spec = build("calibration", "", CalibrationSpec, value)
            if self.locked and (value or read):
                lock.check_text(self.locked, spec.text)
            if read:
                spec = replace(spec, content=pinned_text(spec.text, spec.content))
                self.errors += [self.where + m for m in overlaps(spec, tasks)]
        except BenchError as why:
            self.errors.extend(self.where + m for m in why.errors)
            return "{}"
        return dumps(canonical(spec))

    def dtype(self, value: Any) -> str:
        """The name of a floating-point type; ``fp16`` and the like are short names."""
        value = values.full_dtype(value)
        if value not in DTYPES:
            self.errors.append(self.where + nearest("dtype", str(value), DTYPES))
        return str(value)


def ratios(
    method: ConfiguredPlugin, dtype: str = "float32"
) -> tuple[float, ...] | None:
    """The ratios that a method fixes by itself for weights of a dtype, or None."""
    if method.facts["ratio_of"] == "none":
        return (0.0,)
    fixed = declared(str(method.plugin), method.instance, "ratios", dtype)
    return None if fixed is None else tuple(fixed)


def seeded(method: ConfiguredPlugin, model: ConfiguredPlugin) -> bool:
    """Whether the seed can change the numbers of this pair."""
    return bool(model.facts["trained"] or method.facts["stochastic"])


def _expand(block: Block) -> Iterator[Point]:
    """The block's product; ratios or seeds that change nothing are not repeated."""
    for model in block.models:
        tasks = [(task, task.measuring(model)) for task in block.tasks]
        for method in block.methods:
            method_ratios = ratios(method, block.dtype) or block.ratios
            seeds = block.seeds if seeded(method, model) else block.seeds[:1]
            reads = "calibration" in method.facts["needs"]
            refusal = model.refuses(method)
            for task, measuring in tasks:
                why = unmet(method.plugin, model.plugin, task.plugin, method.facts)
                why = why or model.refuses_task(task)
                for seed in seeds:
                    for ratio in method_ratios:
                        trial = Trial(
                            method=method.part,
                            model=model.part,
                            task=measuring,
                            ratio=ratio,
                            seed=seed,
                            dtype=block.dtype,
                            calibration=block.calibration if reads else None,
                        )
                        if not any(exclude.matches(r, trial) for r in block.exclude):
                            yield Point(trial=trial, unsupported=why or refusal)

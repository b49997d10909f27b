"""One line a method: its mean recovery in each group of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from results.errors import StoreError, unknown
from results.text import yaml_reader
from results.text.answer import Answer
from results.text.bounded import read_bytes
from results.text.columns import printable
from results.text.formats import as_columns
from results.text.labels import label, method_label, shared_calibration

Groups = Mapping[str, Sequence[str]]
Row = Mapping[str, Any]
_OWN = ("model", "method", "ratio", "mean", "lacks")  # other columns are groups


def packaged() -> list[str]:
    """Names of the packaged files of groups."""
    found = (f.name for f in (files("results") / "groups").iterdir())
    return sorted(n.removesuffix(".yaml") for n in found if n.endswith(".yaml"))


def read_groups(name: str) -> Groups:
    """Groups of tasks, from a packaged file or one of your own.

    Args:
        name: As ``packaged`` lists it, or a path that ends in ``.yaml``.

    Returns:
        Group -> its tasks, in the order of the file.

    Raises:
        StoreError: If the file does not exist, or with every error in it.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.exists():
            raise StoreError(
                f"no file {name}; packaged groups are {', '.join(packaged())}"
            )
        return _checked(read_bytes(path, yaml_reader.MAX_BYTES), name)
    if name not in packaged():
        raise unknown("file of groups", name, packaged())
    text = (files("results") / "groups" / f"{name}.yaml").read_bytes()
    return _checked(text, f"{name}.yaml")


def _checked(text: bytes, file: str) -> Groups:
    try:
        content = yaml_reader.read(text)
    except ValueError as why:
        raise StoreError(f"{file}: {why}") from why
    groups = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(groups, dict) or not groups:
        raise StoreError(
            f"{file} has no groups: write `groups:` and below it one line a group, as "
            "in `reasoning: [piqa, winogrande]`"
        )
    errors, owner = [], dict[str, str]()
    for group, tasks in groups.items():
        if group in _OWN:
            errors.append(f"{file}: {group!r} is the name of another column")
        if not isinstance(tasks, list) or not tasks:
            errors.append(f"{file}: {group} is {tasks!r}, not a list of tasks")
            continue
        for task in tasks:
            if (first := owner.setdefault(str(task), group)) != group:
                errors.append(f"{file}: {task} is in {first} and in {group}")
        if len(set(map(str, tasks))) < len(tasks):
            errors.append(f"{file}: {group} names a task twice")
    if errors:
        raise StoreError(*errors)
    return {str(group): [str(t) for t in tasks] for group, tasks in groups.items()}


def by_group(answer: Answer, groups: Groups) -> Answer:
    """Each method's mean recovery in each group, for one model and ratio.

    A group has a mean only if every task of it has a number, and ``mean``, in which
    groups count equally, only if every group has one: means over different tasks
    cannot be compared.

    Args:
        answer: Rows of the view ``leaderboard``, one metric a task.
        groups: Group -> its tasks.

    Returns:
        One row a model, ratio and method, best first, with a column for each group.
        ``lacks`` names the tasks without a number.

    Raises:
        StoreError: If none of the tasks has a number, or if one of them has two.
    """
    wanted = [task for tasks in groups.values() for task in tasks]
    found: dict[tuple[str, float, str], dict[str, float]] = {}
    errors: list[str] = []
    for row in answer.dicts():
        if row["method"] == "dense" or row["task"] not in wanted:
            continue
        if row["recovery"] is None:  # no dense trial to compare with
            continue
        model = label(row["model"], row["model_options"])
        own = found.setdefault((model, row["ratio"], method_label(row)), {})
        if row["task"] in own:
            errors.append(
                f"{method_label(row)} has two numbers for {model} on {row['task']} at "
                f"ratio {row['ratio']:g}"
            )
        own[row["task"]] = float(row["recovery"])
    if errors:
        raise StoreError(
            *dict.fromkeys(errors),
            "they differ in protocol, metric or options: choose with --protocol, "
            "--metric or --where",
        )
    if not found:
        raise StoreError(
            f"no method has a number for any of {', '.join(wanted)}: run a grid with "
            "these tasks and the dense model, or name a YAML file with groups of your "
            "own tasks"
        )
    lines = [(*key, *_means(own, groups)) for key, own in found.items()]
    lines.sort(key=lambda line: (line[0], line[1], *_order(line[3:-1]), line[2]))
    columns = ("model", "ratio", "method", *groups, "mean", "lacks")
    kinds = ("VARCHAR", "DOUBLE", "VARCHAR", *["DOUBLE"] * (len(groups) + 1), "VARCHAR")
    return Answer(columns=columns, types=kinds, rows=lines)


def table(found: Answer, rows: Answer) -> str:
    """Means of groups for a terminal.

    The calibration that all methods share stands above the table, once. A narrow
    terminal leaves out the model where all rows have the same, then the tasks that are
    lacking, then groups, the last ones first.

    Args:
        found: What ``by_group`` gave.
        rows: What it was given.

    Returns:
        The text.
    """
    heading = "mean recovery in each group of tasks"
    models = {row[0] for row in found.rows}
    if len(models) == 1:
        heading = f"{models.pop()}, {heading}"
    lines = [heading]
    methods = {row[found.columns.index("method")] for row in found.rows}
    shared = shared_calibration(
        row for row in rows.dicts() if method_label(row) in methods
    )
    if shared:
        lines.append(f"calibration, where a method reads it: {shared}")
    at = found.columns.index("method")
    short = [
        (*row[:at], row[at].removesuffix(f" {shared}") if shared else row[at])
        + tuple(row[at + 1 :])
        for row in found.rows
    ]
    _, _, _, *groups, _, lacks = found.columns
    dropped = [*([] if models else ["model"]), lacks, *reversed(groups)]
    made = as_columns(replace(found, rows=short), dropped)
    if any(row[-1] for row in found.rows):
        made += "\n\nA method without a mean lacks tasks; --format csv names them."
    return "\n".join([*map(printable, lines), "", made])


def _means(own: Mapping[str, float], groups: Groups) -> list[Any]:
    means = [
        math.fsum(own[task] for task in tasks) / len(tasks)
        if all(task in own for task in tasks)
        else None
        for tasks in groups.values()
    ]
    whole = [mean for mean in means if mean is not None]
    complete = len(whole) == len(means)
    total = math.fsum(whole) / len(whole) if complete else None
    lacks = [t for tasks in groups.values() for t in tasks if t not in own]
    return [*means, total, ", ".join(lacks)]


def _order(means: Sequence[float | None]) -> tuple[float, ...]:
    """By the mean of all groups, then by each group; without one last."""
    last = (means[-1], *means[:-1])
    return tuple(math.inf if mean is None else -mean for mean in last)

"""Every cell of a packaged paper table is a trial that can be planned, or says why."""

import json
from functools import cache
from pathlib import Path

import pytest

from harness.options import canonical
from harness.planning import grid as grids
from harness.planning.configured_plugin import configure, tolerate_unseen
from harness.registry import discover
from results.tables import published
from results.tables.cells import _fits, _is_trial


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """A plan needs neither weights nor data, nor a network to look for them."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@cache
def _planned(name: str) -> list[dict]:
    """The trials of a grid, as rows of a store that has no numbers yet."""
    with tolerate_unseen():
        points = list(grids.read(grids.locate(name), locked={}).points())
    return [
        {
            "model": p.trial.model.name,
            "method": p.trial.method.name,
            "method_options": p.trial.method.options,
            "ratio": p.trial.ratio,
            "task": p.trial.task.name,
            "task_options": p.trial.task.options,
            "metric": None,
        }
        for p in points
        if p.unsupported is None
    ]


def _measured(name: str):
    """Where it stands and what it wants, of each cell that a trial measures."""
    table = published.read(name)
    for row in table.rows:
        for column, printed in zip(table.columns, row["cells"], strict=True):
            wanted = {**row, **column}
            measured = wanted.get("metric") or wanted.get("column")
            if printed is not None and measured and "mean_of" not in column:
                yield f"{row['label']} / {column['name']}", wanted


@pytest.mark.parametrize("name", published.names())
def test_every_cell_is_a_planned_trial_or_says_why_not(name):
    table = published.read(name)
    planned = [one for grid in table.grids for one in _planned(grid)]
    lost, idle = [], {json.dumps(e) for e in table.unplanned}
    for wanted, why in table.printed():
        label = f"{wanted['label']} / {wanted['name']}"
        if (excuse := table.excuse(wanted)) is not None:
            idle.discard(json.dumps(excuse))
        if "mean_of" in wanted:  # of cells that are looked at themselves
            continue
        measured = wanted.get("metric") or wanted.get("column")
        found = measured and any(_is_trial(one, wanted, {}) for one in planned)
        assert not (found and why), f"{label} is planned: {why}"
        if not found and why is None:
            lost.append(label)
    assert lost == []
    assert idle == set()  # no entry excuses nothing


def test_the_manual_states_how_many_cells_are_planned():
    tables = [published.read(name) for name in published.names()]
    reasons = [why for table in tables for _, why in table.printed()]
    counts = [len(reasons), reasons.count(None)]
    page = Path(__file__).parents[3] / "docs" / "how-to" / "tables.md"

    words = " ".join(page.read_text().split())
    assert "Of {:,} numbers {:,} are planned".format(*counts) in words


def test_a_mean_is_planned_if_its_parts_are():
    part = {"metric": "acc", "task": "piqa"}
    columns = [{"name": "a", **part}, {"name": "b", **part}]
    columns += [{"name": "mean", "mean_of": ["a", "b"]}, {"name": "other"}]
    rows = [{"label": "x", "method": "svd", "cells": ["1", None, "2", "3"]}]
    entries = [
        {"why": "too long", "name": ["b"]},
        {"why": "no metric", "name": ["other"]},
    ]
    table = published.PaperTable(
        name="t", title="t", columns=columns, rows=rows, unplanned=entries
    )

    found = [(wanted["name"], why) for wanted, why in table.printed()]
    assert found == [("a", None), ("mean", "too long"), ("other", "no metric")]


@pytest.mark.parametrize("name", published.names())
def test_the_options_of_a_cell_are_such_as_a_store_has(name):
    # An option at its default is not stored, so that a cell that names it is never
    # found; neither is one that names an option that the method does not have.
    table = published.read(name)
    implemented = discover("method")
    for label, wanted in _measured(name):
        options = wanted.get("options") or {}
        if wanted["method"] not in implemented or table.excuse(wanted):
            continue
        given = {k: v for k, v in options.items() if v is not None}
        item = {"name": wanted["method"], **given}
        _, plugin, instance = configure("method", item)
        assert set(options) <= set(canonical(instance)) | _defaults(plugin), label
        assert _fits(canonical(instance), options), label


def _defaults(plugin) -> set[str]:
    return set(plugin.cls.__dataclass_fields__)

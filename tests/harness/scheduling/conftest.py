"""A grid of toys for every test of the scheduling."""

import json
from pathlib import Path

import pytest

from harness.planning import grid as grids
from harness.planning import plan as plans
from harness.planning.plan import Plan

TASKS = "[toy_sum, {name: toy_sum, by: 2}]"


@pytest.fixture
def plan(tmp_path: Path, toys: Path):
    """Plan a grid of the given methods, with more lines of YAML at its end."""

    def makes(
        methods: str = "toy_drop", more: str = "", ratios: int = 2, tasks: str = TASKS
    ) -> Plan:
        path = tmp_path / "grid.yaml"
        each = [round(0.05 * i, 2) for i in range(1, ratios + 1)]
        path.write_text(
            f"models: [toy]\nmethods: [{methods}]\nratios: {json.dumps(each)}\n"
            f"tasks: {tasks}\n{more}"
        )
        return plans.make(grids.read(path))

    return makes

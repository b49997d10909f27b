"""Bundles of trials, and the artifacts and cost classes that they have."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from harness.planning import grid as grids
from harness.planning import plan as plans

GRID = """
models: [toy]
methods: [toy_drop]
ratios: [0.25, 0.5]
tasks: [toy_sum, {name: toy_sum, by: 2}]
"""


@pytest.fixture
def bundle(toys: Path, tmp_path: Path) -> plans.Bundle:
    """Two ratios of two tasks."""
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    (made,) = plans.make(grids.read(path)).bundles
    return made


def test_bundles_that_differ_in_nothing_that_matters_have_one_cost_class(bundle):
    first, other = (
        bundle.part(tuple(t for t in bundle.trials if t.ratio == ratio))
        for ratio in (0.25, 0.5)
    )

    assert first.id != other.id
    assert first.cost_class is other.cost_class
    assert pickle.loads(pickle.dumps(first)).cost_class is first.cost_class
    assert bundle.cost_class is not first.cost_class
    assert replace(first, underestimated=1).cost_class is not first.cost_class
    assert replace(first, exclusive=True).cost_class is not first.cost_class

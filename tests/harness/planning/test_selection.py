"""The trials of a grid that a SQL condition selects."""

import pytest

from harness.core import BenchError
from harness.planning import grid as grids
from harness.planning import selection
from harness.planning.selection import matching


@pytest.fixture
def grid(toys, tmp_path):
    """Two trials, of two ratios."""
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [toy]\nmethods: [toy_drop]\nratios: [0.25, 0.5]\ntasks: [toy_sum]\n"
    )
    return grids.read(path)


def test_a_condition_selects_trials_by_the_columns_of_the_plan(grid):
    (half,) = (p.trial.id for p in grid.points() if p.trial.ratio == 0.5)

    assert matching(grid, "ratio = 0.5") == matching(grid, "ratio > 0.25") == {half}


def test_a_condition_that_selects_nothing_is_told_what_the_grid_has(grid):
    with pytest.raises(BenchError) as caught:
        matching(grid, "method == 'svd'")
    assert str(caught.value) == (
        "--only \"method == 'svd'\" selects none of 2 trials; the grid has method "
        "toy_drop; model toy; task toy_sum"
    )


def test_of_many_tasks_the_first_twenty_are_named():
    rows = [{"task": f"t{n:02}"} for n in reversed(range(22))]
    first = ", ".join(f"t{n:02}" for n in range(20))

    assert selection._values(rows[2:], "task") == f"task {first}"
    assert selection._values(rows, "task") == f"task {first} and 2 more"

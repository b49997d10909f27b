"""Each fault of the table, done to a running grid: nothing lost, nothing doubled."""

import pytest
from faults import table

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", table())
def test_a_fault_costs_no_finished_trial_and_one_more_run_completes_the_grid(
    name, tmp_path, toys
):
    outcome = table()[name].harm(tmp_path)

    assert outcome.lost == 0, "finished trials are gone"
    assert outcome.doubled == 0, "finished trials ran again"
    assert outcome.missing == 0, "the grid is not complete"

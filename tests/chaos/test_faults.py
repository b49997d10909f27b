"""Each fault of the table, done to a running grid: nothing lost, nothing doubled."""

import pytest
from faults import table

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
# `slow` as well: then `make test-slow`, and with it CI, does these too.
FAULTS = [
    pytest.param(name, marks=[pytest.mark.slow] if fault.in_ci else [])
    for name, fault in table().items()
]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_no_finished_trial_and_one_more_run_completes_the_grid(
    name, tmp_path, toys
):
    outcome = table()[name].harm(tmp_path)

    assert outcome.lost == 0, "finished trials are gone"
    assert outcome.doubled == 0, "finished trials ran again"
    assert outcome.missing == 0, "the grid is not complete"

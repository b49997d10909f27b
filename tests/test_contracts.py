"""What every method owes, checked over the registry: a new file is tested by being."""

import pytest

from harness.contracts.compressed import BrokenContract
from harness.contracts.samples import MIXTURE
from harness.contracts.suite import checks_of
from harness.core import Unsupported
from harness.registry import discover

# Experts are not alike, so that a block has no one width that could be reduced.
NO_EXPERTS = {"a3", "flap", "llm_pruner", "modegpt", "random_structured", "slicegpt"}
FAST = {"svd_llm", "gptq", "wanda", "flap", "slicegpt"}  # tried with experts each time


def cases(refused: bool):
    """The checks of every method, or those on samples that it must refuse."""
    for name in discover("method"):
        for check in checks_of(name, strict=True):
            if (check.sample == MIXTURE and name in NO_EXPERTS) == refused:
                slow = check.sample == MIXTURE and name not in FAST
                marks = pytest.mark.slow if slow else ()
                yield pytest.param(check, id=f"{name}-{check}", marks=marks)


@pytest.mark.parametrize("check", list(cases(refused=False)))
def test_every_method_keeps_every_contract(check):
    broken = ""
    try:
        check()
    except BrokenContract as why:
        broken = str(why)
    assert not broken


@pytest.mark.parametrize("check", list(cases(refused=True)))
def test_a_method_that_cannot_treat_experts_says_so(check):
    with pytest.raises(Unsupported, match="dense model"):
        check()

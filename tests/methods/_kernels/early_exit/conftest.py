"""A network with trained exits for every test of a module."""

import pytest
from exit_nets import context

from harness.toolkit.training import Recipe
from methods.class_exclusion import ClassExclusion

QUICK = Recipe(epochs=4, lr=0.1, batch_size=50)


@pytest.fixture(scope="module")
def trained():
    """The context, the method, and what it fitted."""
    ctx = context()
    method = ClassExclusion(train=QUICK)
    return ctx, method, method.fit(ctx.model, ctx)

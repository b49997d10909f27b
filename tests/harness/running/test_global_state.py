"""What a trial changed in its process is put back before the next one."""

import os
import random
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import overrides
from torch.overrides import TorchFunctionMode

from harness.core import Model
from harness.running.global_state import GlobalState
from harness.running.recovery import reconcile

sys.path.append(str(Path(__file__).parents[2] / "toys"))
from _hostile import SPOILS


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch):
    """A remembered state, restored at the end whatever the test does."""
    found = GlobalState()
    found.begin()
    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    yield found
    found.restore("the end")
    # A test may begin with another state.
    torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)


# What says that one kind of spoiling is over.
RESTORED = {
    "dtype": lambda: torch.get_default_dtype() is torch.float32,
    "device": lambda: torch.empty(1).device.type == "cpu",
    "sum": lambda: torch.ones(3).sum().item() == 3,
    "functions": lambda: torch.ones(3).sum().item() == 3,
    "operators": lambda: torch.ones(3).sum().item() == 3,
    "numpy": lambda: np.mean([1.0, 3.0]) == 2,
    "builtin": lambda: int("3") == 3 and int is not str,
    "clock": lambda: time.perf_counter() > 0,
    "engine": lambda: callable(Model.with_net),
    "environment": lambda: "TOY_SPOILT" not in os.environ,
    "forward": lambda: torch.nn.Linear(1, 1)(torch.ones(1)).numel() == 1,
    "hook": lambda: torch.nn.Linear(1, 1)(torch.ones(1)).item() != -1,
    "threads": lambda: torch.get_num_threads() != 7,
    "stdout": lambda: sys.stdout is not None,
}


@pytest.mark.parametrize("how", SPOILS)
def test_what_a_plugin_changed_is_put_back_and_named(state, how):
    if how == "grad":
        torch.set_grad_enabled(False)
        state.begin()
    SPOILS[how]()

    changed = state.restore("plugin")

    assert len(changed) >= 1
    assert RESTORED.get(how, lambda: True)()
    assert state.restore("another plugin") == []


def test_modes_that_were_entered_before_a_trial_stay(state):
    class Quiet(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with torch.device("cpu"), Quiet() as mine:
        state.begin()
        SPOILS["functions"]()
        SPOILS["device"]()

        changed = state.restore("plugin")

        assert {"modes of functions", "default device"} <= set(changed)
        assert overrides._get_current_function_mode_stack()[-1] is mine
        assert torch.ones(3).sum().item() == 3
    state.begin()


def test_nothing_is_changed_where_nothing_was(state):
    state.begin()  # pytest has changed the environment since
    torch.nn.Linear(3, 3)(torch.ones(3)).sum().backward()
    random.random()

    assert state.restore("plugin") == []


def test_a_bundle_may_begin_with_another_state(state):
    torch.set_num_threads(torch.get_num_threads() + 1)
    state.begin()

    assert state.restore("plugin") == []


def test_patches_are_sought_for_a_new_plugin_and_once_a_second(state):
    state.begin()
    state.restore("plugin")
    SPOILS["sum"]()

    assert state.restore("plugin") == []  # known, and a moment ago
    state._searched -= state._every + 1
    assert state.restore("plugin") == ["Tensor.sum"]


def test_a_plugin_that_patches_in_each_trial_is_put_back_after_each(state):
    state.begin()
    SPOILS["sum"]()
    assert state.restore("plugin") == ["Tensor.sum"]

    SPOILS["sum"]()
    assert state.restore("plugin") == ["Tensor.sum"]  # known, and a moment ago
    assert state.restore("plugin") == []


def test_modules_that_a_trial_imports_are_watched_from_then_on(state, monkeypatch):
    late = types.ModuleType("transformers.models.late")

    class Attention:
        def forward(self):
            return 1

    Attention.__module__ = late.__name__
    late.Attention = Attention
    state.begin()
    monkeypatch.setitem(sys.modules, late.__name__, late)
    state.restore("one that imports")
    Attention.forward = lambda self: 2

    assert state.restore("one that patches") == ["Attention.forward"]
    assert Attention().forward() == 1


def test_values_that_are_no_functions_stay(state):
    state.begin()
    torch.toy_cache = {}
    reconcile.calls = 3

    assert state.restore("plugin") == []
    del torch.toy_cache

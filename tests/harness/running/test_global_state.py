"""What a trial changed in its process is put back before the next one."""

import copy
import decimal
import importlib
import math
import os
import random
import signal
import subprocess
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


X = torch.zeros((), requires_grad=True)
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
    "tensor_type": lambda: torch.ones(1).dtype is torch.float32,
    "operator": lambda: torch.ones(3).sum().item() == 3,
    "inference": lambda: not torch.ones(1).is_inference(),
    "saved": lambda: torch.autograd.grad(X.exp(), X)[0].item() == 1,
    "rounding": lambda: 1.0 + 1e-20 == 1.0,
    "autocast": lambda: (torch.ones(1, 1) @ torch.ones(1, 1)).dtype is torch.float32,
    "math": lambda: math.sqrt(4) == 2,
    "pi": lambda: math.cos(math.pi) == -1,
    "random": lambda: random.random() != random.random(),
    "copied": lambda: copy.deepcopy(torch.nn.Parameter(torch.ones(1))).item() == 1,
    "module": lambda: importlib.import_module("math") is math,
    "decimal": lambda: decimal.Decimal(1) / 3 * 3 > decimal.Decimal("0.9999"),
    "alarm": lambda: signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0,
    "blocked": lambda: signal.SIGINT not in signal.pthread_sigmask(0, ()),
}


@pytest.mark.parametrize("how", SPOILS)
def test_what_a_plugin_changed_is_put_back_and_named(state, how):
    if how == "grad":
        torch.set_grad_enabled(False)
        state.begin()
    precision = torch.backends.mkldnn.matmul.fp32_precision
    SPOILS[how]()

    changed = state.restore("plugin")

    assert len(changed) >= 1
    assert RESTORED.get(how, lambda: True)()
    assert torch.backends.mkldnn.matmul.fp32_precision == precision
    assert state.restore("another plugin") == []
    assert not state.spoilt


def test_what_cannot_be_put_back_is_named(state, monkeypatch):
    state.begin()
    here = os.getcwd()
    monkeypatch.setattr(os, "getcwd", lambda: "/gone")

    state.restore("plugin")

    assert state.spoilt == "working directory"
    assert here


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


def test_no_other_plugin_begins_with_a_patch_of_a_moment_ago(state):
    state.begin("one")
    state.restore("one")
    SPOILS["sum"]()
    assert state.restore("one") == []  # known, and a moment ago

    state.begin("another")

    assert torch.ones(3).sum().item() == 3


@pytest.mark.slow  # a Python of its own, whose descriptors are closed
@pytest.mark.parametrize("first", [0, 3])
def test_closed_descriptors_of_the_standard_streams_are_opened_again(tmp_path, first):
    code = f"""
import os, sys
from harness.running.global_state import GlobalState
state = GlobalState()
state.begin()
os.closerange({first}, 64)
mine = open({str(tmp_path / "mine")!r}, "w")
print(state.restore("plugin"), [state.spoilt])
mine.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    named = ["standard streams"] if first == 0 else []
    assert done.stdout == f"{named} ['']\n"
    assert (tmp_path / "mine").read_text() == ""


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

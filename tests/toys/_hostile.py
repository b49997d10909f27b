"""What hostile plugins do and what is said about it; no plugin, so tests import it."""

import builtins
import copy
import ctypes
import decimal
import gc
import locale
import math
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.core import Measurement, Model
from harness.running import measurements
from results.errors import StoreError


class Silent(BaseException):
    """Not an ``Exception``, and ``str`` of it raises."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def measured(value: Any, **more: Any) -> list[Measurement]:
    return [Measurement(metric="m", value=value, goal="max", **more)]


# What a task yields -> what the reason of the failed trial says.
NONSENSE = {
    "nan": (lambda: measured(float("nan")), "m is nan"),
    "infinite": (lambda: measured(float("inf")), "m is inf"),
    "text": (lambda: measured("0.5"), "m is '0.5', a str, not a number"),
    "none": (lambda: measured(None), "not a number"),
    "bool": (lambda: measured(True), "m is True, a bool, not a number"),
    "numpy_bool": (lambda: measured(np.bool_(True)), "a bool, not a number"),
    "complex": (lambda: measured(1j), "m is 1j, a complex, not a number"),
    "two_numbers": (lambda: measured(torch.ones(2)), "not a number"),
    "too_large": (lambda: measured(10**400), "m is too large to store"),
    "huge_fraction": (lambda: measured(Fraction(10**400)), "m is too large to store"),
    "negative_stderr": (lambda: measured(1.0, stderr=-0.5), "is negative: -0.5"),
    "nan_stderr": (lambda: measured(1.0, stderr=np.nan), "standard error of m is nan"),
    "negative_n": (lambda: measured(1.0, n=-1), "n of m is -1"),
    "huge_n": (lambda: measured(1.0, n=2**63), "n of m is 9223372036854775808"),
    "broken_step": (lambda: measured(1.0, step=0.5), "the step of m is 0.5"),
    "no_unit": (lambda: measured(1.0, unit=None), "the unit of m is None"),
    "no_goal": (lambda: [Measurement(metric="m", value=1.0, goal="up")], "goal of m"),
    "no_name": (lambda: [Measurement(metric=None, value=1.0)], "None is not a name"),
    "blank_name": (lambda: [Measurement(metric=" ", value=1.0)], "' ' is not a name"),
    "not_one": (lambda: [1.0], "1.0 is a float, not a Measurement"),
    "twice": (lambda: measured(1.0) + measured(2.0), "'m' was measured 2 times"),
    "nothing": (list, "the task yielded no measurement"),
    "returned_none": (lambda: None, "evaluate returned None"),
    "spent_samples": (lambda: measured(1.0, values=iter(())), "samples of m are empty"),
    "text_samples": (lambda: measured(1.0, values="12"), "samples of m are '12'"),
    "bool_samples": (lambda: measured(1.0, values=[True]), "a sample of m is True"),
    "nan_samples": (lambda: measured(1.0, values=[1.0, np.nan]), "a sample's m is not"),
}
# Unusual and right: these are stored.
SENSE = {
    "numpy": lambda: measured(np.float32(0.5), n=np.int64(3), values=np.ones(3)),
    "tensor": lambda: measured(torch.tensor(0.5), values=torch.ones(3)),
    "generator": lambda: measured(0.5, values=(float(i) for i in range(3))),
    "whole": lambda: measured(1, stderr=0),
}


def _exit() -> None:
    sys.exit(7)


def _throw(error: BaseException) -> None:
    raise error


# How a plugin ends its trial -> what the reason of the row says.
ENDS = {
    "exit": (_exit, "SystemExit: 7"),
    "interrupt": (lambda: _throw(KeyboardInterrupt()), "KeyboardInterrupt"),
    "generator_exit": (lambda: _throw(GeneratorExit("gone")), "GeneratorExit: gone"),
    "base": (lambda: _throw(BaseException("all of it")), "BaseException: all of it"),
    "silent": (lambda: _throw(Silent()), "Silent: (its text cannot be shown: str"),
    "store_error": (lambda: _throw(StoreError("not it")), "StoreError: not it"),
    "full": (lambda: _throw(OSError(28, "No space left on device")), "No space left"),
    "says_full": (lambda: _throw(ValueError("No space left on device")), "ValueError:"),
    "colours": (lambda: _throw(ValueError("\x1b[31mred\x1b]0;t\x07\a")), "ValueError:"),
}
# These end the process of the trial.
DEATHS = {
    "os_exit": (lambda: os._exit(7), "exit status 7"),
    "segfault": (lambda: ctypes.string_at(0), "SIGSEGV"),
    "abort": (os.abort, "SIGABRT"),
    "kill": (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
}


_KEPT: list[torch.library.Library] = []


def _patch_sum(*_: Any, **__: Any) -> torch.Tensor:
    return torch.tensor(-1.0)


class EveryFunction(TorchFunctionMode):
    """Answers every function of torch."""

    def __torch_function__(self, *_: Any, **__: Any) -> torch.Tensor:
        return _patch_sum()


class EveryOperator(TorchDispatchMode):
    """Answers every operator of torch."""

    def __torch_dispatch__(self, *_: Any, **__: Any) -> torch.Tensor:
        return _patch_sum()


def _override_sum() -> None:
    library = torch.library.Library("aten", "IMPL")
    library.impl("sum", lambda *_, **__: torch.zeros(()) - 1, "CPU")
    _KEPT.append(library)


def _set_tensor_type() -> None:
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        torch.set_default_tensor_type(torch.DoubleTensor)


def _other_locale() -> str:
    now = locale.setlocale(locale.LC_ALL)
    return "C" if now != "C" else "C.UTF-8"


def forever() -> None:
    """From a thread of its own, where nothing can restore it."""

    def repeat() -> None:
        while True:
            torch.Tensor.sum = _patch_sum
            time.sleep(0.001)

    threading.Thread(target=repeat, daemon=True).start()


def remove_here() -> None:
    """Remove the working directory, to which nothing can go back."""
    os.rmdir(os.getcwd())


# What a plugin leaves behind in its process.
SPOILS = {
    "dtype": lambda: torch.set_default_dtype(torch.float16),
    "device": lambda: torch.set_default_device("meta"),
    "grad": lambda: torch.set_grad_enabled(True),
    "denormals": lambda: torch.set_flush_denormal(True),
    "sum": lambda: setattr(torch.Tensor, "sum", _patch_sum),
    "double": lambda: setattr(torch.Tensor, "double", _patch_sum),
    "forward": lambda: setattr(nn.Linear, "forward", None),
    "deepcopy": lambda: setattr(copy, "deepcopy", None),
    "no_grad": lambda: setattr(torch, "no_grad", None),
    "clock": lambda: setattr(time, "perf_counter", None),
    "builtin": lambda: setattr(builtins, "int", str),
    "numpy": lambda: setattr(np, "mean", None),
    "engine": lambda: setattr(Model, "with_net", None),
    "directory": lambda: os.chdir("/"),
    "environment": lambda: os.environ.update(TOY_SPOILT="1"),
    "functions": lambda: EveryFunction().__enter__(),
    "operators": lambda: EveryOperator().__enter__(),
    "hook": lambda: nn.modules.module.register_module_forward_hook(_patch_sum),
    "warnings": lambda: warnings.simplefilter("error"),
    "threads": lambda: torch.set_num_threads(7),
    "stdout": lambda: setattr(sys, "stdout", None),
    "tensor_type": _set_tensor_type,
    "operator": _override_sum,
    "inference": lambda: torch.inference_mode().__enter__(),
    "saved": lambda: torch.autograd.graph.saved_tensors_hooks(
        _patch_sum, _patch_sum
    ).__enter__(),
    "rounding": lambda: ctypes.CDLL(None).fesetround(0x800),  # up
    "autocast": lambda: torch.autocast("cpu").__enter__(),
    "onednn": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "bfloat16": lambda: setattr(torch.backends, "fp32_precision", "bf16"),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "attention": lambda: torch.backends.cuda.enable_math_sdp(False),
    "fast_path": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "math": lambda: setattr(math, "sqrt", None),
    "pi": lambda: setattr(math, "pi", 3.0),
    "random": lambda: setattr(random, "random", lambda: 0.5),
    "constant": lambda: setattr(measurements, "MAX_ERRORS", 0),
    "copied": lambda: copy._deepcopy_dispatch.update({nn.Parameter: _patch_sum}),
    "module": lambda: sys.modules.update(math=None),
    "path": lambda: sys.path.insert(0, "/spoilt"),
    "finders": sys.meta_path.clear,
    "decimal": lambda: setattr(decimal.getcontext(), "prec", 3),
    "locale": lambda: locale.setlocale(locale.LC_ALL, _other_locale()),
    "errors": lambda: np.seterr(all="raise"),
    "umask": lambda: os.umask(0o77),
    "alarm": lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 1000),
    "handler": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
    "blocked": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}),
    "limit": lambda: resource.setrlimit(
        resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1])
    ),
    "recursion": lambda: sys.setrecursionlimit(5000),
    "trace": lambda: threading.settrace(lambda *_: None),
    "warning": lambda: setattr(warnings, "showwarning", None),
    "collector": lambda: gc.callbacks.append(lambda *_: None),
}

"""Restores the state of this process that plugins share, after each trial.

What is restored and what is not is listed in docs/explanation/isolation.md.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import overrides
from torch.nn.modules import module as hooks
from torch.utils import _python_dispatch as dispatch
from torch.utils._device import DeviceContext

PATCH_EVERY = 1.0  # seconds between two searches for patched functions
PATCH_SHARE = 50  # a search that takes long waits for this many times its length
# Modules whose functions and classes are watched: those that measure and store
# numbers, with everything below them.
_WATCHED = (
    *("torch.nn", "torch.optim", "torch.linalg", "torch.functional", "torch._tensor"),
    *("torch.autograd", "torch.random", "numpy", "safetensors"),
    *("transformers", "lm_eval"),
    *("harness", "methods", "tasks", "results"),
)
_ALONE = ("torch", "builtins", "random", "time", "math", "json", "copy", "os", "sys")
_HOOKS = [n for n, v in vars(hooks).items() if n.startswith("_global_") and "hook" in n]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGSEGV)


@dataclass(frozen=True, slots=True)
class _Setting:
    """One piece of state: how to read it and how to write it back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(
        f"{getattr(owner, '__name__', owner)}.{name}",
        lambda: getattr(owner, name),
        lambda value: setattr(owner, name, value),
    )


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


# A denormal number times one is zero where the processor flushes them; torch has no
# function that tells.
def _flushes_denormals() -> bool:
    return float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0


def _default_device() -> str | None:
    device = torch.get_default_device()
    # None is torch's own value for "no default"; setting ``cpu`` would put a function
    # mode around every call.
    return None if device == torch.device("cpu") else str(device)


def _entered(stack: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    # That of a default device is put back with the device.
    return lambda: [mode for mode in stack() if not isinstance(mode, DeviceContext)]


def _leave(
    stack: Callable[[], list[Any]], pop: Callable[[], Any], push: Callable[[Any], Any]
) -> Callable[[list[Any]], None]:
    def write(before: list[Any]) -> None:
        kept = [m for m in stack() if m in before or isinstance(m, DeviceContext)]
        for _ in range(len(stack())):
            pop()
        for mode in kept:
            push(mode)

    return write


def _directory() -> str | None:
    with contextlib.suppress(OSError):  # it was deleted
        return os.getcwd()
    return None


def _change_directory(path: str | None) -> None:
    if path is not None:
        os.chdir(path)


def _autocast(kind: str) -> _Setting:
    return _Setting(
        f"autocast of {kind}",
        lambda: torch.is_autocast_enabled(kind),
        lambda value: torch.set_autocast_enabled(kind, value),
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _environment(values: dict[str, str]) -> None:
    # Changed in place and name by name: each change also reaches ``getenv`` of C code.
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in _SIGNALS}


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        # None stands for a handler that was not set from Python, which cannot be set
        # again.
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _global_hooks() -> dict[str, Any]:
    found = {name: getattr(hooks, name) for name in _HOOKS}
    return {n: dict(v) if isinstance(v, dict) else v for n, v in found.items()}


def _set_global_hooks(values: dict[str, Any]) -> None:
    for name, value in values.items():
        now = getattr(hooks, name)
        if isinstance(value, dict):
            # The same dictionary object: torch's handles to remove a hook refer to it.
            now.clear()
            now.update(value)
        else:
            setattr(hooks, name, value)


def _raising() -> list[Any]:
    """Warning filters that raise; others change no result."""
    return [one for one in warnings.filters if one[0] == "error"]


def _set_raising(before: list[Any]) -> None:
    kept = [one for one in warnings.filters if one[0] != "error" or one in before]
    warnings.filters[:] = kept  # type: ignore[index]
    # Warnings that were seen are cached by the version of the filters.
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _settings() -> Iterator[_Setting]:
    """State that a trial may change; reading all of it takes microseconds."""
    one = _Setting
    # First: a mode that was entered and never left changes every function of torch.
    for name, owner, stack in (
        ("modes of functions", overrides, overrides._get_current_function_mode_stack),
        ("modes of operators", dispatch, dispatch._get_current_dispatch_mode_stack),
    ):
        write = _leave(stack, owner._pop_mode, owner._push_mode)
        yield one(name, _entered(stack), write)
    yield one("default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield one("default device", _default_device, torch.set_default_device)
    yield one("grad mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield one("threads", torch.get_num_threads, torch.set_num_threads)
    yield one("denormals", _flushes_denormals, torch.set_flush_denormal)
    yield one(
        "determinism",
        _deterministic,
        lambda v: torch.use_deterministic_algorithms(v[0], warn_only=v[1]),
    )
    yield one(
        "matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    )
    for name in ("enabled", "benchmark", "deterministic"):
        yield _attribute(torch.backends.cudnn, name)
    yield _attribute(torch.backends.mkldnn, "enabled")
    yield from map(_autocast, ("cpu", "cuda"))
    yield one(
        "anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly
    )
    yield one("hooks of all modules", _global_hooks, _set_global_hooks)
    yield one("errors of NumPy", np.geterr, lambda value: np.seterr(**value))
    yield one("working directory", _directory, _change_directory)
    yield one("environment", lambda: dict(os.environ), _environment)
    yield one("umask", _umask, os.umask)
    yield one("import path", lambda: list(sys.path), lambda v: _fill(sys.path, v))
    yield one("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    for name in ("stdout", "stderr", "excepthook"):
        yield _attribute(sys, name)
    yield one(
        "garbage collection", gc.isenabled, lambda v: (gc.disable, gc.enable)[v]()
    )
    yield one("disabled logging", lambda: logging.root.manager.disable, logging.disable)
    yield one("warnings that raise", _raising, _set_raising)
    if threading.current_thread() is threading.main_thread():
        yield one("signal handlers", _handlers, _set_handlers)


def _fill(target: list[Any], values: list[Any]) -> None:
    target[:] = values


@dataclass(slots=True)
class GlobalState:
    """The state of this process before the trials of a bundle ran."""

    _values: list[tuple[_Setting, Any]] = field(default_factory=list)
    _owners: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    _watched: set[str] = field(default_factory=set)
    _searched: float = 0.0
    _every: float = PATCH_EVERY
    _patches: bool = False  # whether a search has found a patch
    _seen: set[Any] = field(default_factory=set)

    def begin(self) -> None:
        """Remember the state as it is; each function as it was when first seen."""
        # Read at each bundle: what the executor sets (threads, device) is part of the
        # state.
        self._values = [(one, one.read()) for one in _settings()]
        if not self._owners:
            self._searched = time.monotonic()
        self._watch()

    def _watch(self) -> None:
        """Remember the functions of modules that were imported since the last call."""
        new = [name for name in sys.modules if name not in self._watched]
        self._watched.update(new)
        # A shallow copy: it holds the functions themselves, to compare by identity.
        self._owners += [(owner, dict(vars(owner))) for owner in _owners(new)]

    def restore(self, *plugins: Any) -> list[str]:
        """Put back what a trial changed.

        Patched functions are searched for when a plugin ran for the first time, and
        about once per second, since the search takes milliseconds. Once one was found,
        they are searched for after each trial.

        Args:
            *plugins: Hashable names of the plugins that just ran.

        Returns:
            What was changed.
        """
        changed = []
        for one, before in self._values:
            with contextlib.suppress(Exception):  # unreadable counts as unchanged
                if one.read() != before:
                    changed.append(one.name)
                    one.write(before)
        # A plugin patches when it runs first (at import or in its first call); later
        # patches are found by the search once per second. A plugin that patched once
        # may do it in each trial: what the next trial finds must not depend on time.
        fresh = self._patches or not self._seen.issuperset(plugins)
        began = time.monotonic()
        if fresh or began - self._searched > self._every:
            self._seen.update(plugins)
            patched = self._unpatch()
            self._patches = self._patches or bool(patched)
            changed += patched
            self._watch()
            self._searched = time.monotonic()
            took = self._searched - began
            # At most one part in ``PATCH_SHARE`` of the time goes into the search.
            self._every = max(PATCH_EVERY, PATCH_SHARE * took)
        return changed

    def _unpatch(self) -> list[str]:
        return [
            f"{getattr(owner, '__name__', owner)}.{name}"
            for owner, before in self._owners
            for name in _put_back(owner, before)
        ]


def _put_back(owner: Any, before: dict[str, Any]) -> Iterator[str]:
    """Restore the functions and classes of one module or class.

    Other values stay: modules fill caches and flags of theirs as they are used.
    """
    now = vars(owner)
    for name, value in before.items():
        # By identity: a wrapper is another object, whatever it says of equality.
        if now.get(name) is not value and callable(value):
            with contextlib.suppress(AttributeError, TypeError):
                setattr(owner, name, value)
                yield name
    if isinstance(owner, type) and len(now) > len(before):
        # A name that was added to a class hides that of a base class.
        for name in now.keys() - before.keys():
            inherited = any(name in vars(base) for base in owner.__mro__[1:])
            if inherited and callable(now[name]):
                with contextlib.suppress(AttributeError, TypeError):
                    delattr(owner, name)
                    yield name


def _owners(names: list[str]) -> Iterator[Any]:
    """Those modules whose functions are watched, and the classes that they define."""
    for name in names:
        module = sys.modules.get(name)
        below = any(name == one or name.startswith(f"{one}.") for one in _WATCHED)
        below = below or name in _ALONE or name.startswith("plugin_")
        if not isinstance(module, types.ModuleType) or not below:
            continue
        yield module
        for value in list(vars(module).values()):
            # A class belongs to the module that defines it; others only import it.
            if isinstance(value, type) and value.__module__ == name:
                yield value

"""Restores the state of this process that plugins share, after each trial.

What is restored and what is not is listed in docs/explanation/isolation.md.
"""

from __future__ import annotations

import contextlib
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.planning.provenance import OURS
from harness.running import settings_of_process, settings_of_torch
from harness.running.setting import Setting

PATCH_EVERY = 1.0  # seconds between two searches for patched functions
PATCH_SHARE = 50  # a search that takes long waits for this many times its length
# Modules whose functions and classes are watched: those that measure and store
# numbers, with everything below them.
_WATCHED = (
    *("torch.nn", "torch.optim", "torch.linalg", "torch.functional", "torch._tensor"),
    *("torch.autograd", "torch.random", "torch.fft", "torch.special", "torch.amp"),
    *("torch._C", "torch.serialization", "torch.storage", "torch.utils.data"),
    *("numpy", "safetensors", "transformers", "tokenizers", "lm_eval", "pyarrow"),
    *("scipy", "sklearn"),
    *OURS,
)
# Of these only the module itself.
_ALONE = frozenset(
    {
        "torch", "builtins", "sys", "os", "io", "gc", "types", "enum", "codecs",
        "math", "cmath", "statistics", "random", "decimal", "fractions", "numbers",
        "itertools", "functools", "operator", "collections", "heapq", "bisect",
        "string", "re", "struct", "unicodedata", "hashlib", "zlib", "json", "pickle",
        "copy", "copyreg", "dataclasses", "contextlib", "weakref", "inspect",
        "importlib", "time", "datetime", "pathlib", "shutil", "tempfile", "warnings",
        "threading", "signal",
    }
)  # fmt: skip
# Mappings in which packages look up what they call: (module, name).
_TABLES = (
    ("copy", "_deepcopy_dispatch"),
    ("copy", "_copy_dispatch"),
    ("copyreg", "dispatch_table"),
    ("transformers.activations", "ACT2FN"),
    ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS"),
    ("transformers.modeling_rope_utils", "ROPE_INIT_FUNCTIONS"),
)
_CONSTANTS = ("math", "cmath", "numpy", "torch")  # modules with pi and the like


@dataclass(slots=True)
class GlobalState:
    """The state of this process before the trials of a bundle ran.

    Args:
        spoilt: What a trial changed so that it cannot be put back; empty if nothing.
            No further trial should run in this process.
    """

    spoilt: str = ""
    _values: list[tuple[Setting, Any]] = field(default_factory=list)
    _owners: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    _tables: list[tuple[str, Any, dict[Any, Any]]] = field(default_factory=list)
    _watched: set[str] = field(default_factory=set)
    _modules: dict[str, Any] = field(default_factory=dict)
    _searched: float = 0.0
    _every: float = PATCH_EVERY
    _patches: bool = False  # whether a search has found a patch
    _seen: set[Any] = field(default_factory=set)
    _last: frozenset[Any] = frozenset()

    def begin(self, *plugins: Any) -> None:
        """Remember the state as it is; each function as it was when first seen.

        Args:
            *plugins: Hashable names of the plugins that will run.
        """
        # Of other plugins than before, no trial may see what an earlier trial patched
        # since the last search.
        if self._owners and self._last != frozenset(plugins):
            self._search()
        self._last = frozenset(plugins)
        # Read at each bundle: what the executor sets (threads, device) is part of the
        # state.
        self._values = list(_readable())
        if not self._owners:
            self._searched = time.monotonic()
        self._watch()

    def _watch(self) -> None:
        """Remember the functions of modules that were imported since the last call."""
        new = {n: m for n, m in sys.modules.items() if n not in self._watched}
        self._watched.update(new)
        # Files with plugins may be imported again.
        self._modules |= {n: m for n, m in new.items() if not n.startswith("plugin_")}
        # A shallow copy: it holds the functions themselves, to compare by identity.
        self._owners += [(owner, dict(vars(owner))) for owner in _owners(new)]
        for module, name in _TABLES:
            table = getattr(new.get(module), name, None)
            if table is not None:
                self._tables.append((f"{module}.{name}", table, dict(table.items())))

    def restore(self, *plugins: Any) -> list[str]:
        """Put back what a trial changed; ``spoilt`` says what cannot be put back.

        Patched functions are searched for when a plugin ran for the first time, and
        about once per second, since the search takes milliseconds. Once one was found,
        they are searched for after each trial.

        Args:
            *plugins: Hashable names of the plugins that just ran.

        Returns:
            What was changed.
        """
        changed: list[str] = []
        # Twice, since to write one setting may change another.
        for _ in range(2):
            differ = [pair for pair in self._values if _differs(*pair)]
            changed = changed or [one.name for one, _ in differ]
            for one, before in differ:
                with contextlib.suppress(Exception):  # ``spoilt`` will name it
                    one.write(before)
            if not differ:
                break
        else:
            self.spoilt = next((o.name for o, v in differ if _differs(o, v)), "")
        # A plugin patches when it runs first (at import or in its first call); later
        # patches are found by the search once per second. A plugin that patched once
        # may do it in each trial: what the next trial finds must not depend on time.
        fresh = self._patches or not self._seen.issuperset(plugins)
        if fresh or time.monotonic() - self._searched > self._every:
            self._seen.update(plugins)
            changed += self._search()
        return changed

    def _search(self) -> list[str]:
        """Put back functions, modules and entries of tables that were replaced."""
        began = time.monotonic()
        # Modules first, so that what follows uses the real ones.
        replaced = [n for n, m in self._modules.items() if sys.modules.get(n) is not m]
        for name in replaced:
            sys.modules[name] = self._modules[name]
        patched = [f"module {name}" for name in replaced]
        patched += [
            f"{getattr(owner, '__name__', owner)}.{name}"
            for owner, before in self._owners
            for name in _unpatched(owner, before)
        ]
        for name, table, before in self._tables:
            patched += [f"{name}[{key!r}]" for key in _refilled(name, table, before)]
        self._patches = self._patches or bool(patched)
        self._watch()
        self._searched = time.monotonic()
        # At most one part in ``PATCH_SHARE`` of the time goes into the search.
        self._every = max(PATCH_EVERY, PATCH_SHARE * (self._searched - began))
        return patched


def _readable() -> Iterator[tuple[Setting, Any]]:
    """Every setting of this system with its value."""
    for module in (settings_of_torch, settings_of_process):
        for one in module.settings():
            with contextlib.suppress(Exception):  # not every system has all of them
                yield one, one.read()


def _differs(one: Setting, before: Any) -> bool:
    try:
        return bool(one.read() != before)
    except Exception:  # whatever the system, torch or a plugin's object raises
        return True


def _unpatched(owner: Any, before: dict[str, Any]) -> Iterator[str]:
    """Restore the functions, classes and constants of one module or class.

    Other values stay: modules fill caches and flags of theirs as they are used.
    """
    now = vars(owner)
    for name, value in before.items():
        # By identity: a wrapper is another object, whatever it says of equality.
        if now.get(name) is not value and _is_fixed(owner, name, value):
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


def _is_fixed(owner: Any, name: str, value: Any) -> bool:
    """Whether a name means the same value for ever: a function, a class, a constant."""
    if callable(value):
        # Of the last exception, which Python keeps for its debugger.
        return not (owner is sys and name.startswith("last_"))
    if not isinstance(owner, types.ModuleType):
        return False
    if owner.__name__ in _CONSTANTS:
        return isinstance(value, float)
    return name.isupper() and owner.__name__.partition(".")[0] in OURS


def _refilled(name: str, table: Any, before: dict[Any, Any]) -> Iterator[Any]:
    """Restore the entries of a mapping."""
    for key, value in before.items():
        if table.get(key) is not value:
            table[key] = value
            yield key
    if name.startswith("copy."):  # packages add to the other tables when imported
        for key in table.keys() - before.keys():
            del table[key]
            yield key


def _owners(modules: dict[str, Any]) -> Iterator[Any]:
    """Those modules whose functions are watched, and the classes that they define."""
    for name, module in modules.items():
        below = any(name == one or name.startswith(f"{one}.") for one in _WATCHED)
        below = below or name in _ALONE or name.startswith("plugin_")
        if not isinstance(module, types.ModuleType) or not below:
            continue
        yield module
        for value in list(vars(module).values()):
            # A class belongs to the module that defines it; others only import it.
            if isinstance(value, type) and value.__module__ == name:
                yield value

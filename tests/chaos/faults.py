"""The table of faults: what is done to a running grid, and what must come of it.

The tests run it, and `make faults` writes docs/explanation/faults.md from it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scene import Outcome, Scene

Harm = Callable[[Path], Outcome]
MODULES = tuple(
    f"faults_of_{what}" for what in ("processes", "hosts", "machines", "stores")
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One class of fault.

    Args:
        name: What fails.
        does: What is done, for real, to a running grid.
        harm: Does it in an empty folder, and checks the store.
        in_ci: Whether `make test-slow` does it too, since it takes seconds.
    """

    name: str
    does: str
    harm: Harm
    in_ci: bool


_faults: dict[str, Fault] = {}


def fault(name: str, *, in_ci: bool = False) -> Callable[[Harm], Harm]:
    """Enter a function into the table; its docstring says what it does."""

    def enter(harm: Harm) -> Harm:
        does = " ".join((harm.__doc__ or "").split())
        _faults[name] = Fault(name=name, does=does, harm=harm, in_ci=in_ci)
        return harm

    return enter


def table() -> dict[str, Fault]:
    """Every fault by its name."""
    for module in MODULES:
        importlib.import_module(module)
    return _faults


@contextlib.contextmanager
def scene(folder: Path, **options: object) -> Iterator[Scene]:
    """A scene whose processes end with the block."""
    made = Scene(folder=folder, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()

"""One setting of this process, with how to put it back after a trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One piece of state: how to read it and how to write it back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]


def attribute(shown: str, owner: Any, name: str) -> Setting:
    """The setting that is an attribute of a module or an object."""
    return Setting(
        shown,
        lambda: getattr(owner, name),
        lambda value: setattr(owner, name, value),
    )

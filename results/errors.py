"""Errors that a person can fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(Exception):
    """An error that a person can fix; the command line prints it, exit status 2.

    Args:
        *errors: One sentence for each error, all of them at once.
        where: File that the errors are in; empty if there is none.
    """

    def __init__(self, *errors: str, where: str = "") -> None:
        super().__init__(*errors)
        self.errors = list(errors)
        self.where = where

    def __str__(self) -> str:
        return "\n".join(self.errors)


class StoreError(UserError):
    """An error of a store, a query or a table.

    Args:
        *errors: As in ``UserError``; user name and password of a URI are removed.
    """

    def __init__(self, *errors: str) -> None:
        super().__init__(*(re.sub(r"://[^/@\s]+@", "://", one) for one in errors))


class NoStore(StoreError):
    """There is no store at the given place yet."""


def unknown(kind: str, name: str, known: Iterable[str]) -> StoreError:
    """The error for a name that is not known, with the nearest one that is.

    >>> str(unknown("column", "methud", ["method", "model"]))
    "no column called 'methud'. Did you mean 'method'? Known: method, model."
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names) or "none"
    return StoreError(f"no {kind} called {name!r}.{hint} Known: {listed}.")

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


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """The known name that a wrong name most likely means, or None.

    Case is ignored, and so are letters left out of an abbreviation.

    >>> suggestion("SVD", ["dense", "svd"]), suggestion("ppl", ["loss", "perplexity"])
    ('svd', 'perplexity')
    """
    by_lower = {one.lower(): one for one in sorted(known, reverse=True)}
    lower = name.lower()
    near = difflib.get_close_matches(lower, by_lower, n=1)
    if near:
        return by_lower[near[0]]
    short = [one for one in sorted(by_lower) if _abbreviates(lower, one)]
    return by_lower[min(short, key=len)] if short else None


def _abbreviates(short: str, full: str) -> bool:
    """Whether the letters of ``short``, 3 or more, occur in ``full`` in this order."""
    letters = iter(full)
    return len(short) > 2 and full[:1] == short[0] and all(c in letters for c in short)


def unknown(kind: str, name: str, known: Iterable[str]) -> StoreError:
    """The error for a name that is not known, with the nearest one that is.

    >>> str(unknown("column", "methud", ["method", "model"]))
    "no column called 'methud'. Did you mean 'method'? Known: method, model."
    """
    names = sorted(known)
    near = suggestion(name, names)
    hint = f" Did you mean {near!r}?" if near else ""
    listed = ", ".join(names) or "none"
    return StoreError(f"no {kind} called {name!r}.{hint} Known: {listed}.")

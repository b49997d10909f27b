"""What a person can fix about a store, a query or a table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class StoreError(Exception):
    """A mistake that a person can fix; the command line ends with exit status 2.

    Args:
        *mistakes: One sentence for each mistake, all of them at once; the name and the
            password of a URI are left out of it.
    """

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = [re.sub(r"://[^/@\s]+@", "://", one) for one in mistakes]
        super().__init__("\n".join(self.mistakes))


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

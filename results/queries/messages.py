"""Texts in SQL, and the texts of DuckDB's errors."""

from __future__ import annotations

import re

_HINTS = ("Did you mean", "Candidate", "HINT", "Hint")  # DuckDB's suggestions


def quoted(text: str) -> str:
    """``text`` as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def first_line(why: Exception) -> str:
    """The first line of an error's text."""
    return str(why).strip().partition("\n")[0]


def with_hints(why: Exception) -> str:
    """An error of DuckDB with its suggestions, and where in the query it is.

    DuckDB writes them below the first line; all stand on one line here.
    """
    first, *more = [line for line in str(why).strip().splitlines() if line.strip()]
    hints = [line.strip() for line in more if line.strip().startswith(_HINTS)]
    # The line with "^" alone points into the line of the query above it.
    at = next((i for i, line in enumerate(more) if set(line.strip()) == {"^"}), 0)
    if at and (found := re.match(r"LINE (\d+): ", more[at - 1])):
        rest = more[at - 1][more[at].index("^") :].strip()
        hints.append(f"at line {found[1]}: {rest[:60]}")
    return " ".join([first, *(hint.rstrip() for hint in hints)])

"""The views of ``results/sql``, and which of them a query reads."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib.resources import files

_COMMENT = re.compile(r"--[^\n]*")
_CREATES = re.compile(r"^\s*CREATE OR REPLACE (?:VIEW|MACRO) ([\w.]+)")
_WORD = re.compile(r"\w+")
_STORED = re.compile(r"\bstored\.(\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A statement of ``results/sql`` that creates a view or a macro.

    Args:
        name: With its schema.
        sql: A statement that replaces the view of this name.
        words: Of the statement, in lower case; names of other views are among them.
        tables: The tables of the store that it reads itself: X of ``stored.X``.
    """

    name: str
    sql: str
    words: frozenset[str]
    tables: frozenset[str]

    def statement(self, *, read_once: bool) -> str:
        """The SQL to run.

        Args:
            read_once: Whether the rows of the trials are read into memory once, where
                a view needs them several times: it pays where they are in many files.

        Returns:
            One statement.
        """
        kept = "AS MATERIALIZED" if read_once else "AS NOT MATERIALIZED"
        return self.sql.replace("AS MATERIALIZED", kept)


@functools.cache
def every() -> tuple[View, ...]:
    """All views and macros, each after those that it reads."""
    scripts = [f for f in files("results.sql").iterdir() if f.name.endswith(".sql")]
    found = []
    for script in sorted(scripts, key=lambda f: f.name):
        text = _COMMENT.sub("", script.read_text(encoding="utf-8"))
        # DuckDB's own parser would start a database first. No text in the scripts has a
        # semicolon.
        for statement in filter(None, map(str.strip, text.split(";"))):
            sql = statement.replace("CREATE ", "CREATE OR REPLACE ", 1)
            (name,) = _CREATES.findall(sql)
            full = name if "." in name else f"main.{name}"
            found.append(
                View(name=full, sql=sql, words=_words(sql), tables=tables_of(sql))
            )
    return tuple(found)


def needed(query: str) -> list[View]:
    """The views and macros that a query reads, also through others.

    Args:
        query: SQL. A name in a text or a comment counts too: one view too many costs
            little.

    Returns:
        Each after those that it reads.
    """
    wanted, found = set(_words(query)), []
    # From the last to the first: a view reads those that are created before it.
    for view in reversed(every()):
        if view.name.rpartition(".")[2] in wanted:
            found.append(view)
            wanted |= view.words
    return found[::-1]


def tables_of(sql: str) -> frozenset[str]:
    """The tables of the store that a statement reads itself, without those of views.

    >>> sorted(tables_of("FROM stored.trials JOIN plans USING (trial)"))
    ['trials']
    """
    return frozenset(_STORED.findall(sql.lower()))


def _words(sql: str) -> frozenset[str]:
    return frozenset(_WORD.findall(sql.lower()))

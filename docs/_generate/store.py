"""The page of the store's tables and views, with the meaning of every column."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _generate.text import table
from results.queries.db import connect
from results.storage.store import open_store

TEXT = """\
# Tables and views

`shrinkgrid sql` reads these. `trials`, `samples`, `layers` and `plans` are stored; the
others are views over them. NULL means "not known" or "does not apply", never zero.
Columns that end in `_options` or `_fields` hold canonical JSON
(`method_options->>'bits'`). Times are UTC. [Twenty questions with their
queries](../how-to/sql.md) show how to use them.
"""


def columns() -> dict[str, dict[str, str]]:
    """View -> column -> type, of a new store."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "store"), create=True)
        with connect(store) as connection:
            views = [name for (name,) in connection.execute("SHOW TABLES").fetchall()]
            described = {
                view: connection.execute(f"DESCRIBE {view}").fetchall()
                for view in views
            }
        return {
            view: {column: kind for column, kind, *_ in rows}
            for view, rows in described.items()
        }


def meaning(said: Mapping[str, Any], view: str, column: str) -> str:
    """What a column holds: as this view says it, else as all views do."""
    own: str = said.get("in", {}).get(view, {}).get(column, "")
    return own or said["columns"].get(column, "")


def undescribed(said: Mapping[str, Any]) -> list[str]:
    """Views and columns without a meaning."""
    found = columns()
    lacking = [view for view in found if view not in said["views"]]
    return lacking + [
        f"{view}.{column}"
        for view, named in found.items()
        for column in named
        if not meaning(said, view, column)
    ]


def page(said: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        said: The content of ``docs/store.yaml``.
    """
    found = columns()
    lines = [TEXT]
    lines += table(
        ("name", "one row is"),
        ((f"[`{view}`](#{view})", said["views"][view]) for view in sorted(found)),
    )
    for view in sorted(found):
        lines += [f"## {view}", "", f"One row is {said['views'][view]}", ""]
        rows = (
            (f"`{column}`", f"`{_short(kind)}`", meaning(said, view, column))
            for column, kind in found[view].items()
        )
        lines += table(("column", "type", "meaning"), rows)
    return "\n".join(lines)


def _short(kind: str) -> str:
    return "STRUCT(...)[]" if kind.startswith("STRUCT") else kind

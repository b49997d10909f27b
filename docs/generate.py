"""Writes the generated pages of docs/reference; `make docs` runs it.

The pages are not kept in the repository, so that a new method, task or option needs no
second file. Sentences that the code does not carry (what a column of the store means,
what a variable does, examples of commands) are in the YAML files beside this one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from _generate import (  # noqa: E402 (path above)
    commands,
    environment,
    families,
    outcomes,
    plugins,
    python,
    store,
)

FOLDER = HERE / "reference"


def said(name: str) -> Any:
    """The content of one of the YAML files beside this one."""
    return yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))


def pages() -> dict[str, str]:
    """File name -> text of every generated page."""
    return {
        "commands.md": commands.page(said("commands")),
        "environment.md": environment.page(said("environment")),
        "families.md": families.page(),
        "methods.md": plugins.page("method"),
        "models.md": plugins.page("model"),
        "tasks.md": plugins.page("task"),
        "nested-options.md": plugins.nested_page(),
        "outcomes.md": outcomes.page(),
        "python.md": python.page(),
        "store.md": store.page(said("store")),
    }


def write() -> None:
    """Write each page whose text has changed, so that Sphinx reads no other again."""
    for name, text in pages().items():
        file = FOLDER / name
        page = text.rstrip() + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != page:
            file.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()

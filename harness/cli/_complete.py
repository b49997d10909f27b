"""Completion of values in a shell: grids, papers, plugins, trials of a store.

Each function takes what click gives it and returns texts. An error completes nothing: a
shell would print it into the line that a person is typing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

_MOST = 50  # trials that are offered


def grids(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Packaged grids, and YAML files of the folder that is being typed."""
    del ctx, param
    from importlib.resources import files

    found = [path.name for path in files("harness.grids").iterdir()]
    names = [name.removesuffix(".yaml") for name in found if name.endswith(".yaml")]
    folder = Path(typed).parent if "/" in typed else Path()
    with contextlib.suppress(OSError):
        names += [str(path) for path in folder.glob("*.y*ml")]
        names += [f"{path}/" for path in folder.iterdir() if path.is_dir()]
    return [name for name in sorted(names) if name.startswith(typed)]


def papers(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Packaged tables of papers."""
    del ctx, param
    from results.tables.published import names

    return [name for name in names() if name.startswith(typed)]


def plugins(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Names of methods, tasks and models, or of the kind that was typed before."""
    del param
    kinds = ("method", "task", "model")
    before = [word for word in ctx.params.get("words") or () if word in kinds]
    found = [] if before else list(kinds)
    with contextlib.suppress(Exception):
        from harness.registry import discover

        found += [name for kind in before or kinds for name in discover(kind)]
    return sorted({name for name in found if name.startswith(typed)})


def stored_grids(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Grids that were run into the store that the command line names."""
    del param
    store = ctx.params.get("store") or os.environ.get("SHRINKGRID_STORE") or "store"
    with contextlib.suppress(Exception):
        from results.queries.grids import names
        from results.storage.store import open_store

        return [name for name in names(open_store(store)) if name.startswith(typed)]
    return []


def trials(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Ids of trials in the store that the command line names."""
    del param
    store = ctx.params.get("store") or os.environ.get("SHRINKGRID_STORE") or "store"
    with contextlib.suppress(Exception):
        from results.queries.db import ask
        from results.storage.store import open_store

        query = (
            "SELECT DISTINCT trial FROM trials WHERE starts_with(trial, ?) "
            f"ORDER BY trial LIMIT {_MOST}"
        )
        opened = open_store(store)
        return [t for (t,) in ask(opened, query, [typed]).rows]
    return []

"""The code that workers need, wherever they run."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

from harness.planning import lock

PACKAGES = ("harness", "methods", "tasks", "results")


def folders() -> list[Path]:
    """Where our packages lie on this machine."""
    found = []
    for name in PACKAGES:
        where = importlib.import_module(name).__file__
        assert where is not None
        found.append(Path(where).parent)
    return found


def pack(folder: Path, grid: Path | None) -> list[str]:
    """Copy what a run on another machine needs, and nothing else.

    Args:
        folder: An empty folder; gets our packages, and ``plugins/`` with what
            SHRINKGRID_PLUGINS names.
        grid: A grid file of the user's, copied with the lock beside it.

    Returns:
        What SHRINKGRID_PLUGINS must name there, relative to the folder.
    """
    junk = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for source in folders():
        shutil.copytree(source, folder / source.name, ignore=junk)
    if grid is not None:
        for path in (grid, lock.beside(grid)):
            if path.is_file():
                shutil.copy(path, folder / path.name)
    plugins = []
    named = os.environ.get("SHRINKGRID_PLUGINS", "").split(os.pathsep)
    for number, path in enumerate(Path(name) for name in named if name):
        # Numbered, since two plugins in different folders may have the same file name.
        target = folder / "plugins" / str(number) / path.name
        target.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, target, ignore=junk)
        else:
            shutil.copy(path, target)
        plugins.append(str(target.relative_to(folder)))
    return plugins

"""Where a number came from: code, commit, versions; recorded, never hashed."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "shrinkgrid",
    "torch",
    "transformers",
    "ray",
    "lm-eval",
    "datasets",
    "numpy",
    "scikit-learn",
    "sacrebleu",
    "rouge-score",
    "torch-pruning",
)


@cache
def versions() -> dict[str, str]:
    """Version of Python and of each package that can change a number."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> tuple[str | None, bool | None]:
    """The commit of this checkout and whether it has uncommitted changes."""
    told = os.environ.get("SHRINKGRID_COMMIT")  # of the checkout that shipped this copy
    if told:
        return told.rstrip("+"), told.endswith("+")
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        # A checkout of something else around an installed copy says nothing of us.
        if "harness/core.py" not in _git(folder, "ls-files", "--full-name", "."):
            return None, None
        return head, bool(_git(folder, "status", "--porcelain", "-uno"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()


@cache
def code_digest(module: str) -> str:
    """A digest of a plugin's code, without comments, docstrings and formatting.

    Covers the plugin's module and the modules of this project's underscore kernels
    that it imports, so that an edit which can change a number changes the digest.

    Args:
        module: Its import name.

    Returns:
        12 hexadecimal digits; empty if the source is not at hand.
    """
    seen: dict[str, str] = {}
    _collect(module, seen)
    text = "\n".join(seen[name] for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


def _collect(module: str, seen: dict[str, str]) -> None:
    path = _source(module)
    if module in seen or path is None:
        return
    tree = ast.parse(path.read_text())
    _strip(tree)
    seen[module] = ast.dump(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (node.module, *(f"{node.module}.{a.name}" for a in node.names)):
                if name.startswith(("methods._", "tasks._")):
                    _collect(name, seen)


def _source(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    name = getattr(loaded, "__file__", None)
    if name is None:
        name = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    return Path(name) if Path(name).is_file() else None


def _strip(tree: ast.AST) -> None:
    """Remove docstrings; the parser already dropped comments and layout."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]

"""Where a number came from: code, commit, versions; recorded, never hashed."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
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

OURS = ("harness", "methods", "tasks", "results")  # the project's packages


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
    # "+" after the commit stands for uncommitted changes.
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
def code_digest(*modules: str) -> str:
    """A digest of the code of plugins, without comments, docstrings and formatting.

    It covers each plugin's module and every module that it imports, directly or not,
    below the four packages of the project or from the plugin's own package or folder:
    an edit that can change a number changes the digest.

    Args:
        *modules: Import names: of the plugin, and of those that it is made of.

    Returns:
        12 hexadecimal digits; empty if the source is not available.
    """
    seen: dict[str, str] = {}
    for module in modules:
        _follow(module, module.partition(".")[0], seen)
    # Sorted: the order in which modules are found depends on the order of imports.
    text = "\n".join(seen[name] for name in sorted(seen))
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


def _follow(module: str, own: str, seen: dict[str, str]) -> None:
    """Add a module's packages, which run before it, and the module itself."""
    parts = module.split(".")
    for last in range(len(parts)):
        _collect(".".join(parts[: last + 1]), own, seen)


def _collect(module: str, own: str, seen: dict[str, str]) -> None:
    """Add the code of one module and of its imports to ``seen``."""
    path = _source(module, own)
    if module in seen or path is None:
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    seen[module], names = _code(path.read_text(encoding="utf-8"), package)
    for name in names:
        # Recursion ends because ``seen`` has every module on the way.
        _follow(name, own, seen)


@cache  # plugins share most of what they import
def _code(text: str, package: str) -> tuple[str, tuple[str, ...]]:
    """What counts of a module's source, and the names that it imports."""
    tree = ast.parse(text)
    _strip(tree)
    return ast.dump(tree), tuple(_imports(tree, package))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The names that a module imports, anywhere in it; a member may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package itself; each further dot goes one package up.
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _source(module: str, own: str) -> Path | None:
    """The file of a module that counts, or None."""
    first = module.partition(".")[0]
    if first not in (*OURS, own):
        beside = getattr(sys.modules.get(own), "__file__", None)
        if beside is None or not own.startswith("plugin_"):
            return None  # of another project, whose version is recorded
        return _file(Path(beside).parent.joinpath(*module.split(".")))
    # A module that is loaded knows its file. Others are found by path, since importing
    # them only to hash them would run their code.
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is not None:
        return Path(known) if Path(known).suffix == ".py" else None
    if first in OURS:
        return _file(Path(__file__).parents[2].joinpath(*module.split(".")))
    root = getattr(sys.modules.get(first), "__file__", None)
    if root is None:
        return None
    return _file(Path(root).parent.joinpath(*module.split(".")[1:]))


def _file(path: Path) -> Path | None:
    """The source at a dotted path: a module's file, or that of a package."""
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


class _Strip(ast.NodeTransformer):
    """Removes docstrings, and imports that only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Leave out the body of ``if TYPE_CHECKING``."""
        self.generic_visit(node)
        name = getattr(node.test, "id", getattr(node.test, "attr", ""))
        return node.orelse if name == "TYPE_CHECKING" else node


def _strip(tree: ast.AST) -> None:
    """Remove docstrings; the parser already dropped comments and layout."""
    _Strip().visit(tree)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]

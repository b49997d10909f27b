"""Lint: names every test function that asserts nothing, and fails if there is one."""

import ast
import sys
from pathlib import Path

CHECKS = ("raises", "warns", "assert_")  # calls whose names say that they check


def checks_something(function: ast.AST, helpers: set[str]) -> bool:
    """Whether a test asserts, expects an error, or calls a helper that does."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name.startswith(CHECKS) or name in helpers:
                return True
    return False


def hollow(path: Path) -> list[str]:
    """Tests in one file that check nothing, as ``file:line name``."""
    tree = ast.parse(path.read_text())
    functions = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    helpers = {
        f.name
        for f in functions
        if not f.name.startswith("test_")
        and any(isinstance(n, ast.Assert) for n in ast.walk(f))
    }
    return [
        f"{path}:{f.lineno} {f.name} asserts nothing"
        for f in functions
        if f.name.startswith("test_") and not checks_something(f, helpers)
    ]


if __name__ == "__main__":
    folder = Path(__file__).parent
    found = [
        line for path in sorted(folder.rglob("test_*.py")) for line in hollow(path)
    ]
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.exit(bool(found))

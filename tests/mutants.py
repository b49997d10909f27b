"""Mutation testing: change one operator or number and see whether a test notices.

``make mutants`` draws MUTANTS changes (100) with seed SEED (0) from the pure modules,
runs for each the tests of its module, and prints those that no test noticed. The tests
of a module are its doctests and the test file of the same name; where there is none,
the test files that import the module, else all of its folder. Exit status 1: fewer than
90 % were noticed.

``tests/equivalent_mutants.txt`` names changes that cannot be noticed, with a reason.

Not changed: annotations, decorators, assertions, texts, and the values of module-level
constants, since a test of those could only repeat them.

All runs happen in copies of the tree. A process imports the heavy packages once and
forks for each run, so that a run takes as long as its tests.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = ROOT / "tests/equivalent_mutants.txt"
FOLDERS = (
    "harness/planning",
    "harness/scheduling",
    "methods/_kernels",
    "results/text",
    "results/storage",
    "results/queries",
    "results/tables",
    "results/boards",
)
FILES = ("harness/toolkit/model_size.py", "harness/toolkit/stored_size.py")
# Downloads, drawings and pages: their tests look at more than one expression.
IMPURE = {"prepare.py", "figures.py", "report.py", "__init__.py"}
ENOUGH = 0.9
HEAVY = (
    "duckdb",
    "hypothesis.extra",
    "hypothesis.internal.conjecture.engine",
    "hypothesis.internal.observability",
    "hypothesis.strategies",
    "anyio.pytest_plugin",
    "numpy",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pytest",
    "rich.console",
    "safetensors.torch",
    "scipy.stats",
    "torch",
    "yaml",
)
NOT_CHANGED = (
    ast.Assert,
    ast.JoinedStr,
    ast.Import,
    ast.ImportFrom,
    ast.Raise,
    ast.Global,
)
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one expression: ``old`` at ``start:end`` of the file is ``new``."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str
    text: str  # the line without indentation, which the list of equivalents names

    @property
    def key(self) -> tuple[str, str, str]:
        """What the list of equivalent mutants names it by; holds when lines move."""
        return self.path, self.text, f"{self.old} -> {self.new}"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.old} -> {self.new}\n    {self.text}"


def modules() -> list[str]:
    """The modules that are changed, relative to the root."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    kept = sorted(p for p in found if p.name not in IMPURE)
    return [str(p.relative_to(ROOT)) for p in kept] + list(FILES)


def mutants(path: str) -> list[Mutant]:
    """Every change of one module."""
    source = (ROOT / path).read_bytes()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    found = []
    for node, condition in _expressions(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = lines[node.lineno - 1].decode().strip()
        old = ast.unparse(node)
        for changed in _negated(node) if condition else _changes(node):
            new = ast.unparse(changed)
            found.append(Mutant(path, node.lineno, start, end, old, new, text))
    return found


def _expressions(tree: ast.Module) -> Iterator[tuple[ast.expr, bool]]:
    """Expressions below functions, and whether each stands as a condition."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.expr):
            yield node, False
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test, True
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_comment"):
                continue
            if isinstance(node, ast.keyword) and node.arg == "strict":
                continue  # of zip: without a fault elsewhere it changes nothing
            top = isinstance(node, ast.Module | ast.ClassDef)
            for child in value if isinstance(value, list) else [value]:
                constant = top and not isinstance(
                    child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
                )
                if isinstance(child, ast.AST) and not (
                    constant or isinstance(child, NOT_CHANGED)
                ):
                    todo.append(child)


def _negated(node: ast.expr) -> Iterator[ast.expr]:
    """The opposite of a condition; for comparisons and ``not`` it is made elsewhere."""
    if not isinstance(node, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(ops=[op]):
            yield _with(node, ops=[COMPARISONS[type(op)]()])
        case ast.BinOp(op=op) if type(op) in OPERATORS:
            yield _with(node, op=OPERATORS[type(op)]())
        case ast.BoolOp(op=op):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield _with(node, op=other)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            keep = [] if name == "sorted" else node.keywords
            func = ast.Name(FUNCTIONS[name])
            yield _with(node, func=func, keywords=keep)


def _with(node: ast.expr, **fields: object) -> ast.expr:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def tests_of(path: str) -> list[str]:
    """What runs for a module, relative to the root; the module stands for doctests."""
    where = Path(path)
    mirror = Path("tests") / where.parent / f"test_{where.stem}.py"
    if (ROOT / mirror).is_file():
        found = [str(mirror)]
    else:
        dotted = path.removesuffix(".py").replace("/", ".")
        package, _, name = dotted.rpartition(".")
        names = (f"import {dotted}", f"from {dotted} ", f"from {package} import {name}")
        found = [
            str(other.relative_to(ROOT))
            for other in sorted((ROOT / "tests" / where.parts[0]).rglob("test_*.py"))
            if any(text in other.read_text() for text in names)
        ]
        folder = ROOT / "tests" / where.parent
        found = found or [
            str(other.relative_to(ROOT)) for other in sorted(folder.glob("test_*.py"))
        ]
    doctests = [path] if ">>> " in (ROOT / path).read_text() else []
    return found + doctests


def equivalents() -> dict[tuple[str, str, str], str]:
    """Path, line and change of each listed mutant -> why no test can notice it."""
    found = {}
    for block in EQUIVALENT.read_text().split("\n\n"):
        rows = [r for r in block.splitlines() if r.strip() and not r.startswith("#")]
        if rows:
            path, text, change, *reason = (row.strip() for row in rows)
            found[path, text, change] = " ".join(reason)
    return found


class Copy:
    """A copy of the tree in which tests run, each run in a forked process."""

    def __init__(self, folder: str) -> None:
        self.root = Path(tempfile.mkdtemp(dir=folder))
        listed = subprocess.run(
            ["git", "ls-files", "-zco", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)

    def passes(self, tests: list[str], limit: float) -> bool | None:
        """Whether the tests pass; None if they take longer than ``limit`` seconds."""
        child = os.fork()
        if not child:
            self._run(tests)
        ends = time.monotonic() + limit
        while time.monotonic() < ends:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None

    def _run(self, tests: list[str]) -> None:
        """In the forked process: run pytest and exit with its status."""
        status = 99
        try:
            os.setsid()
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root)
            sys.path.insert(0, str(self.root))
            sys.dont_write_bytecode = True
            quiet = os.open(
                self.root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            )
            for stream in (1, 2):
                os.dup2(quiet, stream)
            import pytest

            words = ["-x", "-p", "no:cacheprovider", "-p", "no:randomly"]
            # hypothesis is among what was imported before the fork.
            words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            status = int(pytest.main([*words, "--hypothesis-seed=0", *tests]))
            import harness

            if not str(harness.__file__).startswith(str(self.root)):
                status = 98
        except BaseException:  # also SystemExit: nothing may leave the forked process
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def survivors(self, path: str, drawn: list[Mutant]) -> tuple[str, list[Mutant]]:
        """The mutants of one module that its tests do not notice, or why none ran."""
        tests = tests_of(path)
        if not tests:
            return f"{path}: no test imports it", drawn
        began = time.monotonic()
        if not self.passes(tests, 600.0):
            said = (self.root / "output.txt").read_text(errors="replace")
            why = f"{path}: {' '.join(tests)} fail without any change:\n"
            return why + "\n".join(said.splitlines()[-30:]), drawn
        limit = 30.0 + 5 * (time.monotonic() - began)
        target = self.root / path
        source = target.read_bytes()
        missed = []
        for one in drawn:
            new = b"(" + one.new.encode() + b")"
            target.write_bytes(source[: one.start] + new + source[one.end :])
            if self.passes(tests, limit):
                missed.append(one)
        target.write_bytes(source)
        return "", missed


_copy: Copy | None = None


def _prepare(folder: str) -> None:
    global _copy  # noqa: PLW0603 - one copy a process of the pool
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    data = ROOT.parent / "shared/data"
    if data.is_dir():
        os.environ.setdefault("SHRINKGRID_TEST_DATA", str(data))
    for name in HEAVY:
        with suppress(ImportError):
            __import__(name)
    gc.freeze()  # forked processes share the memory
    _copy = Copy(folder)


def _one(path: str, drawn: list[Mutant]) -> tuple[str, str, list[Mutant]]:
    assert _copy is not None
    return path, *_copy.survivors(path, drawn)


def main() -> int:
    """Draw, run, print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("modules", nargs="*", help="only modules that start so")
    given = parser.parse_args()
    listed = equivalents()
    wanted = tuple(given.modules) or ("",)
    everything = [m for p in modules() if p.startswith(wanted) for m in mutants(p)]
    unknown = set(listed) - {m.key for p in modules() for m in mutants(p)}
    for key in sorted(unknown):
        sys.stdout.write(f"listed as equivalent, but not found: {' | '.join(key)}\n")
    pool = [m for m in everything if m.key not in listed]
    drawn = random.Random(given.seed).sample(pool, min(given.count, len(pool)))
    by_module: dict[str, list[Mutant]] = defaultdict(list)
    for one in sorted(drawn, key=lambda m: (m.path, m.line)):
        by_module[one.path].append(one)
    missed: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ProcessPoolExecutor(
            given.jobs, initializer=_prepare, initargs=(folder,)
        ) as runs,
    ):
        found = runs.map(_one, by_module, by_module.values())
        for path, why, survivors in found:
            missed[path] += len(survivors)
            told = [why] if why else survivors
            sys.stdout.write("".join(f"{line}\n" for line in told))
            drawn_here = len(by_module[path])
            caught_here = drawn_here - missed[path]
            sys.stdout.write(f"{caught_here:4} of {drawn_here:3} {path}\n")
            sys.stdout.flush()
    caught = len(drawn) - missed.total()
    share = caught / max(1, len(drawn))
    sys.stdout.write(f"{caught} of {len(drawn)} noticed ({share:.0%})\n")
    return int(share < ENOUGH or bool(unknown))


if __name__ == "__main__":
    sys.exit(main())

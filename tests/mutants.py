"""Mutation testing: change one operator or number and see whether a test notices.

``make mutants`` draws MUTANTS changes (100) with seed SEED (0) from the pure modules,
runs for each the tests of its module, and prints those that no test noticed. The tests
of a module are its doctests and the test file of the same name (``test_MODULE.py`` and
``test_MODULE_SUBJECT.py``); where there is none, the test files that import the module,
else all of its folder. Exit status 1: fewer than 90 % were noticed.

With ``--others`` the other test files that import the module then run on what was
missed, and a second share is printed. The exit status does not depend on it.

``tests/equivalent_mutants.txt`` names changes that cannot be noticed, with a reason.

Not changed: annotations, decorators, assertions, texts, and the values of module-level
constants, since a test of those could only repeat them.

To work on one module, name it, and draw all of its mutants; ``--once`` saves the second
run of what was missed (see ``support/mutant_runs.py``)::

    export PYTHONPATH=tests/support
    python tests/mutants.py --count 9999 --once results/tables/cells.py
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import repeat
from pathlib import Path

from mutant_runs import ROOT, Copy, Mutant

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
    for node, condition, reached in _expressions(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = lines[node.lineno - 1].decode().strip()
        old = ast.unparse(node)
        for changed in _negated(node) if condition else _changes(node):
            new = ast.unparse(changed)
            found.append(Mutant(path, node.lineno, reached, start, end, old, new, text))
    return found


def _expressions(
    tree: ast.Module,
) -> Iterator[tuple[ast.expr, bool, tuple[int, int]]]:
    """Expressions below functions, whether each is a condition, and its lines."""
    todo: list[tuple[ast.AST, tuple[int, int]]] = [(tree, (0, 0))]
    while todo:
        node, lines = todo.pop(0)
        if isinstance(node, ast.stmt):
            lines = _lines(node)
        if isinstance(node, ast.expr):
            yield node, False, lines
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test, True, lines
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
                    todo.append((child, lines))


def _lines(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, without the statements in it.

    Those of a function are all of its lines: its defaults count where it runs.
    """
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return node.lineno, node.end_lineno or node.lineno
    body = getattr(node, "body", None) or getattr(node, "cases", None)
    if not body:
        return node.lineno, node.end_lineno or node.lineno
    first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
    return node.lineno, max(node.lineno, first.lineno - 1)


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
        # A long test file is several, `test_MODULE_SUBJECT.py`.
        parts = (ROOT / mirror.parent).glob(f"{mirror.stem}_*.py")
        source = (ROOT / where).parent
        own = [p for p in parts if not (source / p.name.removeprefix("test_")).exists()]
        found = [str(mirror), *sorted(str(p.relative_to(ROOT)) for p in own)]
    else:
        room = f"tests/{where.parts[0]}/"
        found = [other for other in importing(path) if other.startswith(room)]
        folder = ROOT / "tests" / where.parent
        found = found or [
            str(other.relative_to(ROOT)) for other in sorted(folder.glob("test_*.py"))
        ]
    doctests = [path] if ">>> " in (ROOT / path).read_text() else []
    return found + doctests


def importing(path: str) -> list[str]:
    """The test files that import a module, relative to the root."""
    dotted = path.removesuffix(".py").replace("/", ".")
    return [name for name, names in _imports().items() if dotted in names]


@cache
def _imports() -> dict[str, set[str]]:
    found = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        names = set()
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names |= {one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{one.name}" for one in node.names}
                names.add(node.module)
        found[str(file.relative_to(ROOT))] = names
    return found


def equivalents() -> dict[tuple[str, str, str], str]:
    """Path, line and change of each listed mutant -> why no test can notice it."""
    found = {}
    for block in EQUIVALENT.read_text().split("\n\n"):
        rows = [r for r in block.splitlines() if r.strip() and not r.startswith("#")]
        if rows:
            path, text, change, *reason = (row.strip() for row in rows)
            found[path, text, change] = " ".join(reason)
    return found


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


def _own(path: str, drawn: list[Mutant], again: bool) -> tuple[str, str, list[Mutant]]:
    assert _copy is not None
    return path, *_copy.survivors(path, tests_of(path), drawn, again=again)


def _others(path: str, drawn: list[Mutant]) -> tuple[str, str, list[Mutant]]:
    assert _copy is not None
    tests = [name for name in importing(path) if name not in tests_of(path)]
    if not tests or not drawn:
        return path, "", drawn
    return path, *_copy.survivors(path, tests, drawn, again=False)


def main() -> int:
    """Draw, run, print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--others", action="store_true", help="then the other tests that import it"
    )
    parser.add_argument(
        "--once", action="store_true", help="believe the first run of the tests"
    )
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
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ProcessPoolExecutor(
            given.jobs, initializer=_prepare, initargs=(folder,)
        ) as runs,
    ):
        again = repeat(not given.once)
        found = runs.map(_own, by_module, by_module.values(), again)
        missed = _tell(found, by_module)
        share = _share("by the module's own tests", missed, len(drawn))
        if given.others:
            found = runs.map(_others, missed, missed.values())
            left = _tell(found, missed)
            _share("by any test file that imports the module", left, len(drawn))
    return int(share < ENOUGH or bool(unknown))


def _tell(
    found: Iterable[tuple[str, str, list[Mutant]]], drawn: dict[str, list[Mutant]]
) -> dict[str, list[Mutant]]:
    """Print what was not noticed, module by module, as it is known; return it."""
    missed = {}
    for path, why, survivors in found:
        missed[path] = survivors
        told = [why] if why else survivors
        sys.stdout.write("".join(f"{line}\n" for line in told))
        caught = len(drawn[path]) - len(survivors)
        if drawn[path]:
            sys.stdout.write(f"{caught:4} of {len(drawn[path]):3} {path}\n")
        sys.stdout.flush()
    return missed


def _share(by: str, missed: dict[str, list[Mutant]], drawn: int) -> float:
    caught = drawn - sum(map(len, missed.values()))
    share = caught / max(1, drawn)
    sys.stdout.write(f"{caught} of {drawn} noticed {by} ({share:.0%})\n")
    sys.stdout.flush()
    return share


if __name__ == "__main__":
    sys.exit(main())

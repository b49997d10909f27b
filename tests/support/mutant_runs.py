"""Runs of tests for ``tests/mutants.py``, in copies of the tree and forked processes.

A run of one module collects its tests once. A first process runs them and notes which
lines of the module each test reaches. For each mutant a forked process then puts the
changed code into the functions that were imported, and runs the tests that reach the
changed line. What these tests do not notice is run again as a user would: with the
changed file, in a process that imports it, and with all tests.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one expression: ``old`` at ``start:end`` of the file is ``new``."""

    path: str
    line: int
    lines: tuple[int, int]  # first and last of the statement, without its body
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

    def changed(self, source: bytes) -> bytes:
        """The file with the change; its other lines keep their numbers."""
        kept = b"\n" * source[self.start : self.end].count(b"\n")
        new = b"(" + self.new.encode() + kept + b")"
        return source[: self.start] + new + source[self.end :]


class Copy:
    """A copy of the tree in which tests run."""

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

    def survivors(
        self, path: str, tests: list[str], drawn: list[Mutant], *, again: bool
    ) -> tuple[str, list[Mutant]]:
        """The mutants of one module that tests do not notice, or why none ran.

        Args:
            path: The module, relative to the root.
            tests: Files of tests, and the module itself for its doctests.
            drawn: Mutants of the module.
            again: Also run what was not noticed with the changed file.
        """
        target = self.root / path
        source = target.read_bytes()
        began = time.monotonic()
        loop = _Loop(target, source, drawn)
        status = _forked(lambda: self._pytest(tests, loop), 600.0 + 60 * len(drawn))
        target.write_bytes(source)
        if status != 0 or not loop.found.is_file():
            said = (self.root / "output.txt").read_text(errors="replace")
            why = f"{path}: {' '.join(tests)} fail without any change:\n"
            return why + "\n".join(said.splitlines()[-30:]), drawn
        told = json.loads(loop.found.read_text())
        loop.found.unlink()
        missed = [one for one, noticed in zip(drawn, told, strict=True) if not noticed]
        if again:
            # Bytecode of the original must not stand for the changed file.
            for compiled in (target.parent / "__pycache__").glob(f"{target.stem}.*"):
                compiled.unlink()
            limit = 60.0 + 5 * (time.monotonic() - began)
            missed = [one for one in missed if self._passes(one, tests, limit)]
            target.write_bytes(source)
        return "", missed

    def _passes(self, one: Mutant, tests: list[str], limit: float) -> bool:
        target = self.root / one.path
        kept = target.read_bytes()
        target.write_bytes(one.changed(kept))
        status = _forked(lambda: self._pytest(tests, write=False), limit)
        target.write_bytes(kept)
        return status == 0

    def _pytest(
        self, tests: list[str], *plugins: object, write: bool = True
    ) -> NoReturn:
        """In a forked process: run pytest and exit with its status."""
        status = 99
        try:
            os.chdir(self.root)
            os.environ["PYTHONPATH"] = str(self.root)
            sys.path.insert(0, str(self.root))
            sys.dont_write_bytecode = not write
            quiet = os.open(
                self.root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            )
            for stream in (1, 2):
                os.dup2(quiet, stream)
            import pytest

            words = ["-x", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=short"]
            # hypothesis is among what was imported before the fork.
            words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            words += ["--hypothesis-seed=0", *tests]
            status = int(pytest.main(words, plugins=list(plugins)))
            import harness

            if not str(harness.__file__).startswith(str(self.root)):
                status = 98
        except BaseException:  # also SystemExit: nothing may leave the forked process
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)


def _forked(work: Callable[[], object], limit: float) -> int | None:
    """The exit status of ``work`` in a process of its own; None if it took too long."""
    child = os.fork()
    if not child:
        os.setsid()
        try:
            work()
        finally:
            os._exit(97)
    ends = time.monotonic() + limit
    pause = 0.005
    try:
        while time.monotonic() < ends:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return None
    finally:
        # Also what a test that failed left running.
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


class _Loop:
    """A plugin of pytest that runs the collected tests once for each mutant."""

    def __init__(self, target: Path, source: bytes, drawn: list[Mutant]) -> None:
        self.target, self.source, self.drawn = target, source, drawn
        self.found = target.parent / f"found-{target.stem}.json"
        self.reached = target.parent / f"reached-{target.stem}.json"

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run the tests as they are, then for each mutant those that reach its line."""
        if session.testsfailed or not session.items:
            raise session.Failed("no tests")
        gc.unfreeze()  # what is frozen is not listed
        functions = [
            one
            for one in gc.get_objects()
            if isinstance(one, types.FunctionType)
            and one.__code__.co_filename == str(self.target)
        ]
        gc.freeze()
        began = time.monotonic()
        if _forked(lambda: self._trace(session), 600.0) != 0:
            raise session.Failed("the tests fail without any change")
        limit = 30.0 + 5 * (time.monotonic() - began)
        reached = [set(lines) for lines in json.loads(self.reached.read_text())]
        self.reached.unlink()
        told = []
        for one in self.drawn:
            first, last = one.lines
            changed = range(first, last + 1)
            items = [
                item
                for item, lines in zip(session.items, reached, strict=True)
                if not lines.isdisjoint(changed)
            ]
            if items:
                source = one.changed(self.source)
                self.target.write_bytes(source)  # for processes that tests start
                run = _Run(session, items, functions, source)
                told.append(_forked(run, limit) != 0)
            else:
                told.append(False)
        self.found.write_text(json.dumps(told))
        return True

    def _trace(self, session: Any) -> NoReturn:
        """Run every test; write the lines of the module that each of them reaches."""
        reached: list[set[int]] = []
        fixtures: dict[Path, set[int]] = defaultdict(set)
        now: set[int] = set()
        name = str(self.target)

        def line(frame: types.FrameType, _event: str, _: object) -> Any:
            now.add(frame.f_lineno)
            return line

        def call(frame: types.FrameType, _event: str, _: object) -> Any:
            return line if frame.f_code.co_filename == name else None

        threading.settrace(call)
        sys.settrace(call)
        for item, following in _pairs(session.items):
            now = set()
            hook = item.config.hook
            original = item.setup

            def setup(
                original: Callable[[], None] = original,
                lines: set[int] = now,
                path: Path = item.path,
            ) -> None:
                original()
                fixtures[path] |= lines  # a fixture may serve all tests of a file

            item.setup = setup
            hook.pytest_runtest_protocol(item=item, nextitem=following)
            reached.append(now)
        sys.settrace(None)
        whole = [
            sorted(lines | fixtures[item.path])
            for item, lines in zip(session.items, reached, strict=True)
        ]
        self.reached.write_text(json.dumps(whole))
        os._exit(1 if session.testsfailed else 0)


class _Run:
    """The tests that reach one mutant, in a forked process."""

    def __init__(
        self,
        session: Any,
        items: list[Any],
        functions: list[types.FunctionType],
        source: bytes,
    ) -> None:
        self.session, self.items = session, items
        self.functions, self.source = functions, source

    def __call__(self) -> NoReturn:
        """Put the changed code in place, run, and exit with 1 if a test failed."""
        tree = ast.parse(self.source)
        codes = _codes(compile(tree, "changed", "exec"))
        for one in self.functions:
            code = codes.get((one.__code__.co_qualname, one.__code__.co_firstlineno))
            if code is not None:
                one.__code__ = code.replace(co_filename=one.__code__.co_filename)
        _set_defaults(tree, self.functions)
        for item, following in _pairs(self.items):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.session.testsfailed:
                os._exit(1)
        os._exit(0)


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(items, [*items[1:], None], strict=True)


def _set_defaults(tree: ast.Module, functions: list[types.FunctionType]) -> None:
    """Give functions the constants that the source has as their defaults."""
    nodes = {
        min([node.lineno, *(one.lineno for one in node.decorator_list)]): node.args
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for one in functions:
        arguments = nodes.get(one.__code__.co_firstlineno)
        if arguments is None or one.__name__ == "<lambda>":
            continue
        given = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        for argument, value in given:
            if isinstance(value, ast.Constant) and one.__kwdefaults__:
                one.__kwdefaults__[argument.arg] = value.value
        if one.__defaults__ and len(one.__defaults__) == len(arguments.defaults):
            one.__defaults__ = tuple(
                new.value if isinstance(new, ast.Constant) else old
                for new, old in zip(arguments.defaults, one.__defaults__, strict=True)
            )


def _codes(code: types.CodeType) -> dict[tuple[str, int], types.CodeType]:
    """The code of each function of a module, by its name and line."""
    found = {}
    todo = [code]
    while todo:
        one = todo.pop()
        found[one.co_qualname, one.co_firstlineno] = one
        todo += [c for c in one.co_consts if isinstance(c, types.CodeType)]
    return found

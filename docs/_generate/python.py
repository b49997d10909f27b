"""The page of the Python module ``shrinkgrid``, from its docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import shrinkgrid
from _generate.text import table
from harness.cli._describe import body, described

TEXT = """\
# Python

`import shrinkgrid` gives these functions and classes. [A
notebook](../tutorial/notebook.md) shows how to use them.
"""


def page() -> str:
    """The whole page."""
    lines = [TEXT]
    functions = [n for n in shrinkgrid.__all__ if inspect.isfunction(_of(n))]
    for name in sorted(shrinkgrid.__all__, key=lambda n: (n not in functions, n)):
        lines += _entry(name, _of(name), "##")
        if inspect.isclass(_of(name)):
            for member, value in vars(_of(name)).items():
                if not member.startswith("_") and callable(value):
                    lines += _entry(f"{name}.{member}", value, "###")
    return "\n".join(lines)


def _of(name: str) -> Any:
    return getattr(shrinkgrid, name)


def _entry(name: str, value: Any, level: str) -> Iterator[str]:
    yield from (f"{level} {name}", "")
    if inspect.isfunction(value):
        signature = re.sub(r"\(self(, )?", "(", str(inspect.signature(value)))
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)  # annotations
        yield from ("```text", f"{name}{signature}", "```", "")
    yield from (body(value.__doc__), "")
    arguments = described(value) if inspect.isclass(value) else entries(value)
    yield from table(("argument", "meaning"), arguments.items())


def entries(function: Any) -> dict[str, str]:
    """Argument -> meaning of a function."""
    return described(type("Holder", (), {"__doc__": function.__doc__}))

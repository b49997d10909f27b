"""The page of environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _generate.text import table

TEXT = """\
# Environment variables

An option on the command line takes precedence over its variable.
"""


def page(said: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        said: Heading -> variable -> meaning, as in ``docs/environment.yaml``.
    """
    lines = [TEXT]
    for heading, variables in said.items():
        lines += [f"## {heading}", ""]
        lines += table(
            ("variable", "meaning"),
            ((f"`{name}`", text) for name, text in variables.items()),
        )
    return "\n".join(lines)

"""The page of statuses and error classes."""

from __future__ import annotations

from _generate.text import table
from results.outcomes import ErrorClass, Status

TEXT = """\
# Statuses and error classes

Every attempt of a trial ends with a status. An attempt that does not end with `ok` also
has an error class, which decides whether the same run tries the trial again.
"""


def page() -> str:
    """The whole page."""
    lines = [TEXT, "## Statuses", ""]
    lines += table(
        ("status", "the trial is finished", "what a later run does"),
        (
            (f"`{one}`", "yes" if one.finished else "no", _sentence(one.meaning))
            for one in Status
        ),
    )
    lines += ["## Error classes", ""]
    lines += table(
        ("error class", "meaning", "status", "tries in one run"),
        (
            (f"`{one}`", _sentence(one.meaning), f"`{one.status}`", str(one.tries))
            for one in ErrorClass
        ),
    )
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."

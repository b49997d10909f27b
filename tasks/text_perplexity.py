"""Perplexity of any text, by name or by the path of a local file."""

from __future__ import annotations

from harness.registry import task
from harness.toolkit import texts
from tasks._perplexity import Tail, WindowPerplexity


@task("text_perplexity", kind="causal_lm")
class TextPerplexity(WindowPerplexity):
    """Token perplexity of a UTF-8 file, or of a text of ``harness.toolkit.texts``.

    Args:
        text: Name of a text, or path of a UTF-8 file.
        window: Tokens in one window; windows do not overlap.
        tail: What happens to the last, shorter window.
    """

    text: str  # type: ignore[misc]
    window: int = 2048  # type: ignore[misc]
    tail: Tail = "dropped"  # type: ignore[misc]

    def paths(self) -> tuple[str, ...]:
        """The option ``text`` if it is a path, which the fingerprint covers."""
        return ("text",) if texts.is_file(self.text) else ()

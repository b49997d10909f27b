"""The Python manual inside every Python: English that needs no download."""

from __future__ import annotations

from harness.registry import task
from tasks._perplexity import WindowPerplexity


@task("pydoc-512", kind="causal_lm")
class Pydoc(WindowPerplexity):
    """Token perplexity over full windows of 512 tokens of the first half of pydoc.

    Calibration reads the second half by default, so that no method has seen the text
    that it is judged by.
    """

    text = "pydoc-test"
    window = 512

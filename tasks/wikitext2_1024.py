"""WikiText-2 in the windows that GPT-2 can read (arXiv:1609.07843)."""

from __future__ import annotations

from harness.registry import task
from tasks._perplexity import WindowPerplexity


@task("wikitext2-1024", kind="causal_lm")
class WikiText2Short(WindowPerplexity):
    """Token perplexity over full windows of 1,024 tokens."""

    text = "wikitext2-test"
    window = 1024

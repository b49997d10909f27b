"""WikiText-2, raw, test split (Merity et al. 2016, arXiv:1609.07843)."""

from __future__ import annotations

from harness.registry import task
from tasks._perplexity import WindowPerplexity


@task("wikitext2-2048", kind="causal_lm")
class WikiText2(WindowPerplexity):
    """Token perplexity as SVD-LLM and wanda measure it: full windows of 2,048."""

    text = "wikitext2-test"
    window = 2048

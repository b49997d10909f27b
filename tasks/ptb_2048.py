"""Penn Treebank, test split, as SVD-LLM joins it (Marcus et al. 1993)."""

from __future__ import annotations

from harness.registry import task
from tasks._perplexity import WindowPerplexity


@task("ptb-2048", kind="causal_lm")
class PennTreebank(WindowPerplexity):
    """Token perplexity, full windows of 2,048 tokens; sentences keep their <unk>."""

    text = "ptb-test"
    window = 2048

"""C4, the validation shard that SparseGPT chose (arXiv:1910.10683)."""

from __future__ import annotations

from harness.registry import task
from tasks._perplexity import WindowPerplexity


@task("c4-2048", kind="causal_lm")
class C4(WindowPerplexity):
    """Token perplexity, full windows of 2,048 tokens of the first 2,000 documents."""

    text = "c4-validation"
    window = 2048

"""WikiText-2 as the released code of Basis Sharing measures it (arXiv:2410.03765)."""

from __future__ import annotations

from harness.registry import task
from tasks._perplexity import WindowPerplexity


@task("wikitext2-2048-basis-sharing", kind="causal_lm")
class WikiText2BasisSharing(WindowPerplexity):
    """The last, shorter window counts as much as a full one of 2,048 tokens."""

    text = "wikitext2-test"
    window = 2048
    tail = "equal_weight"

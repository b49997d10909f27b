"""The page of the families of language models."""

from __future__ import annotations

from _generate.text import table
from harness.models import _families
from harness.models._language import LEAST_COVERAGE

TEXT = """\
# Families of language models

Methods find the matrices of a block by their role (query, key, up, down and so on),
which a table gives for each name (`harness/toolkit/roles.py`). The coverage is the
share of the weights in the blocks that have a role, at the sizes of the default
configuration of transformers {release}. Everything else stays dense.

Methods treat a family whose coverage is at least {least:.0%}. Below it the plan refuses
them. With `partial: allow` on the line of the model they treat the part that has roles;
the column `coverage` of the store has the share. A ratio counts all weights of the
blocks. `flap`, `llm_pruner` and `random_structured` remove attention heads and neurons;
they also ask for separate matrices of query, key and value, and for one MLP in each
block, which mixtures of experts do not have. `shrinkgrid list families` prints this
table.
"""


def page() -> str:
    """The whole page."""
    lines = [
        TEXT.format(release=_families.release(), least=LEAST_COVERAGE),
        *table(
            ("family", "coverage", "methods treat it", "stays dense"),
            (
                (
                    f"`{one.family}`",
                    f"{one.coverage:.1%}",
                    one.treated,
                    ", ".join(f"`{name}`" for name in one.dense) or "nothing",
                )
                for one in _families.known()
            ),
        ),
        "## Not in the table",
        "",
        "Encoders (BERT and the like), which do not predict the next word, and:",
        "",
        *table(
            ("family", "why"),
            ((f"`{name}`", why) for name, why in _families.skipped().items()),
        ),
    ]
    return "\n".join(lines)

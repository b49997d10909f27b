"""Fisher-weighted SVD: rows count by their gradients (arXiv:2207.00112)."""

from __future__ import annotations

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.curvature import row_fisher
from methods._kernels.low_rank.factors import Factors, Group, linears
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@method(
    "fwsvd", ratio_of="weights", needs={"linears", "calibration"}, kinds={"causal_lm"}
)
class Fwsvd:
    """SVD of ``W D`` with D the root of each input channel's Fisher information.

    As a language-model baseline: loss of the calibration text, one window a batch, the
    same ratio for every matrix, no fine-tuning.

    Args:
        samples: Calibration windows that are run backward; 0 for all.
    """

    samples: int = 0

    def __post_init__(self) -> None:
        """Refuse a negative sample.

        Raises:
            ValueError: If ``samples`` is below 0.
        """
        if self.samples < 0:
            raise ValueError(f"samples {self.samples} is below 0 (0 reads all)")

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Factorise each matrix once under its Fisher information."""
        names = list(linears(model))
        tokens = ctx.calibration().tokens[: self.samples or None]
        fisher = row_fisher(ctx.dense(), names, tokens)
        groups = [Group((name,)) for name in names]
        return factorize_groups(model, groups, lambda g: fisher[g.names[0]])

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        return truncate_groups(fitted, ratio, ctx)

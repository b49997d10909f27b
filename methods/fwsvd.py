"""Fisher-weighted SVD: input channels weighed by gradients (arXiv:2207.00112)."""

from __future__ import annotations

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.curvature import differentiable, row_fisher
from methods._kernels.low_rank.factors import Factors, Group, linears
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@method(
    "fwsvd", ratio_of="weights", needs={"linears", "calibration"}, kinds={"causal_lm"}
)
class Fwsvd:
    """SVD that is more exact for the input channels to which the loss is sensitive.

    The Fisher information of input channel j of a weight W is
    ``I_j = sum_i mean_b (dL_b / dW_ij)^2``, with ``L_b`` the loss of calibration window
    b. With the diagonal matrix ``D = diag(sqrt(I_1), sqrt(I_2), ...)``, the SVD of
    ``W D = U Sigma V^T`` is truncated to rank k: ``W_k = U_k Sigma_k V_k^T D^-1``. The
    rank is ``k = floor((1 - ratio) out in / (out + in))`` for every matrix. Channels
    whose gradients are all zero count at the level of rounding error, so that D has an
    inverse.

    By default all calibration windows are run backward, one window as one batch. The
    gradients of a float16 network are computed in float32.

    The paper (arXiv:2207.00112) treats fine-tuned classifiers and trains again
    afterwards; here, as in the papers on language models that use it as a baseline, the
    loss is that of the next token and nothing is trained. ASVD's repository contains
    another version that shifts the labels twice; its numbers are not comparable.

    Args:
        samples: Number of calibration windows that are run backward, from the first; 0
            for all.
    """

    samples: int = 0

    def __post_init__(self) -> None:
        """Check the number of windows.

        Raises:
            ValueError: If ``samples`` is below 0.
        """
        if self.samples < 0:
            raise ValueError(f"samples {self.samples} is below 0 (0 reads all)")

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Decompose each matrix once under its Fisher information."""
        names = list(linears(model))
        tokens = ctx.calibration().tokens[: self.samples or None]
        fisher = row_fisher(differentiable(ctx), names, tokens)
        groups = [Group((name,)) for name in names]
        # A vector counts as a diagonal Gram matrix: D D^T = diag(I).
        return factorize_groups(model, groups, lambda g: fisher[g.names[0]])

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        return truncate_groups(fitted, ratio, ctx)

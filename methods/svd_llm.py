"""SVD-LLM: truncation-aware whitening, then update or recovery (arXiv:2403.07378)."""

from __future__ import annotations

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears
from methods._kernels.low_rank.lora import Lora, recover
from methods._kernels.low_rank.refit import update
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups
from methods._kernels.low_rank.whitening import Whitening, whitened


@method(
    "svd_llm", ratio_of="weights", needs={"linears", "calibration"}, kinds={"causal_lm"}
)
class SvdLlm:
    """SVD under the Gram matrix of each input: dropping sigma costs exactly sigma.

    Args:
        whitening: ``eigh`` is exact for any Gram matrix; ``cholesky`` with ``jitter``
            where it fails is what the released code does.
        jitter: Beyond the smallest eigenvalue, for ``cholesky`` only.
        update: Refit the left factors block by block to the inputs that the compressed
            prefix gives (step 2 of arXiv versions 1 to 4).
        lora: Recovery by low-rank adapters on the calibration text (versions 5 and
            later, there on Alpaca); None for none.
    """

    whitening: Whitening = "eigh"
    jitter: float = 1e-6
    update: bool = False
    lora: Lora | None = None

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Factorise each matrix once; every ratio truncates the same factors."""
        groups = [Group((name,)) for name in linears(model)]
        return factorize_groups(
            model, groups, whitened(ctx.calibration(), self.whitening, self.jitter)
        )

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        net = truncate_groups(fitted, ratio, ctx)
        if ratio == 0:
            return net
        if self.update:
            update(net, ctx, fitted, inputs="dense")
        return net if self.lora is None else recover(net, self.lora, ctx)

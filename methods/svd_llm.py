"""SVD-LLM: truncation-aware whitening, then update or recovery (arXiv:2403.07378)."""

from __future__ import annotations

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears
from methods._kernels.low_rank.lora import Lora, recover
from methods._kernels.low_rank.refit import Solver, update
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups
from methods._kernels.low_rank.whitening import Whitening, whitened


@method(
    "svd_llm",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    version=2,
)
class SvdLlm:
    """SVD that keeps the outputs on a calibration text, instead of the weights.

    With ``G = mean(x x^T)`` over the inputs x of a weight W and ``S S^T = G``, it
    truncates the SVD of ``W S = U Sigma V^T`` to the k largest singular values:
    ``W_k = U_k Sigma_k V_k^T S^-1``. Then ``mean ||W x - W_k x||^2`` is exactly the sum
    of the squares of the singular values left out, the smallest possible error at rank
    k. The rank is ``k = floor((1 - ratio) out in / (out + in))`` for every matrix.

    ``update`` (step 2 in versions 1 to 4 of the paper) then goes through the blocks. It
    keeps the right factor ``R = Sigma_k V_k^T S^-1`` and fits the left one to the
    inputs x that the compressed blocks before give:
    ``L = W G' R^T (R G' R^T)^-1`` with ``G' = mean(x x^T)``. ``lora`` (version 5 and
    later) trains adapters on the factors.

    By default neither is done: whitening alone, which is the row "SVD-LLM (W)" of the
    papers. The released code (AIoT-MLSys-Lab/SVD-LLM at 1c1009a) differs in these
    points. It takes S from a Cholesky decomposition with a jitter
    (``whitening: cholesky``); here the eigenvectors of G also handle a singular G. It
    solves the update by ``torch.linalg.lstsq`` in float32
    (``update_solver: released``). On a CPU this call ignores every direction below
    ``1.2e-7 tokens`` of the largest, 1e-3 for 16 windows of 512 tokens; on a GPU it
    ignores none. The ``exact`` solution is the right one: it is the least-squares fit
    that the paper defines, on every device and for every number of windows. Where no
    direction is that weak, both agree (perplexity 830.77 on SmolLM2-135M at ratio 0.5
    with 8 windows, to six digits). The released code trains ``lora`` on Alpaca; here it
    is the calibration text. For matrices with a bias, the released update fits outputs
    that include the bias and adds the bias again; here the bias is left out of the fit.

    Args:
        whitening: How G is decomposed: ``eigh`` is exact for every G; ``cholesky``,
            with ``jitter`` where it fails, is what the released code does.
        jitter: The smallest eigenvalue after a failed Cholesky decomposition, on the
            sum over all tokens; for ``cholesky`` only.
        update: Whether to fit the left factors to the inputs of the compressed network.
        update_samples: Number of calibration windows that the update reads, from the
            first; 0 for all. The default is that of the released code.
        update_solver: ``exact`` in float64, or ``released``: float32 least squares.
        lora: The recipe of recovery by low-rank adapters; None for no recovery.
    """

    whitening: Whitening = "eigh"
    jitter: float = 1e-6
    update: bool = False
    update_samples: int = 16
    update_solver: Solver = "exact"
    lora: Lora | None = None

    def __post_init__(self) -> None:
        """Check the number of windows.

        Raises:
            ValueError: If ``update_samples`` is below 0.
        """
        if self.update_samples < 0:
            raise ValueError(
                f"update_samples {self.update_samples} is below 0 (0 reads all)"
            )

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Decompose each matrix once; every ratio truncates the same factors."""
        groups = [Group((name,)) for name in linears(model)]
        return factorize_groups(
            model,
            groups,
            whitened(ctx.calibration(), self.whitening, self.jitter, ctx.device),
        )

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        net = truncate_groups(fitted, ratio, ctx)
        if ratio == 0:
            return net
        if self.update:
            windows = self.update_samples or None
            solver = self.update_solver
            update(net, ctx, fitted, inputs="dense", windows=windows, solver=solver)
        return net if self.lora is None else recover(net, self.lora, ctx)

"""OBD-LLM: whitening by inputs and by gradients at the outputs (arXiv:2604.00821)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.curvature import (
    OutputCurvature,
    backward,
    differentiable,
    likelihood,
    sampled,
)
from methods._kernels.low_rank.factors import (
    Factors,
    Group,
    factorize_group,
    kept,
    linears,
)
from methods._kernels.low_rank.uniform import truncate_groups


@method(
    "obd_llm",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    stochastic=True,
    version=2,
)
class ObdLlm:
    """SVD that keeps the loss of the model, instead of the outputs of each matrix.

    To second order, a change D of a weight W adds ``tr(C_g D C_x D^T) / 2`` to the
    loss, with ``C_x = mean(x x^T)`` over the inputs x and ``C_g = mean(g g^T)`` over
    the gradients g of the loss at the outputs: the Kronecker-factored Hessian
    ``C_x (x) C_g``. With ``C_x = L_x L_x^T`` and ``C_g = L_g L_g^T``, the truncated SVD
    ``L_g^T W L_x = U Sigma V^T`` gives the best matrix of rank k in this sense,
    ``W_k = L_g^-T U_k Sigma_k V_k^T L_x^-1``. The rank is
    ``k = floor((1 - ratio) out in / (out + in))`` for every matrix.

    By default a tenth of its mean diagonal is added to the diagonal of both moments,
    and the gradients are those of the next tokens of the calibration text, over all
    windows. The gradients of a float16 network are computed in float32.

    The paper is arXiv:2604.00821, of which no code is known. The damping is that of the
    paper, read from descriptions of it; they do not say which labels its gradients
    have, and ``labels: model``, which gives the Fisher information, is an option. The
    damped moments are factored by their eigenvectors, which gives the same product as
    Cholesky factors do.

    ``water_filling`` has the same two-sided whitening. It spends one budget for the
    network by this error, joins matrices of one input and stores factors pivoted; with
    ``join: none``, ``spend: uniform``, ``pivot: false`` it is this method with
    ``labels: model`` and ``damping: 0``.

    Args:
        damping: Share of the mean diagonal that is added to the diagonals; 0 for none.
        labels: Whose next tokens the loss predicts: those of the ``text``, or tokens
            drawn from the ``model``.
        samples: Number of calibration windows that are run backward, from the first; 0
            for all.
    """

    damping: float = 0.1
    labels: Literal["text", "model"] = "text"
    samples: int = 0

    def __post_init__(self) -> None:
        """Check the damping and the number of windows.

        Raises:
            ValueError: If one is below 0.
        """
        if self.damping < 0:
            raise ValueError(f"damping {self.damping} is below 0")
        if self.samples < 0:
            raise ValueError(f"samples {self.samples} is below 0 (0 reads all)")

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Decompose each matrix once; every ratio truncates the same factors."""
        modules, calibration = linears(model), ctx.calibration()
        groups = [Group((name,)) for name in modules]
        net = differentiable(ctx, exact=True).requires_grad_(False)
        # C_g, or W^T C_g W where the matrix has more outputs than inputs.
        curvature = OutputCurvature(net, groups)
        draw = self.labels == "model"
        loss = sampled(ctx.stream("labels")) if draw else likelihood
        with curvature.watch():
            for _ in backward(net, calibration.tokens[: self.samples or None], loss):
                pass
        moments = curvature.mean(self.damping)
        return {
            group: kept(
                model,
                factorize_group(
                    modules,
                    group,
                    # C_x with its damping; that of C_g is added by `mean` above.
                    damped(calibration.gram(group.names[0]), self.damping),
                    moments[group],
                ),
            )
            for group in groups
        }

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        return truncate_groups(fitted, ratio, ctx)


def damped(gram: Tensor, share: float) -> Tensor:
    """A second moment with a share of its mean diagonal added to the diagonal.

    >>> damped(torch.tensor([[1.0, 2.0], [2.0, 5.0]]), 0.5).tolist()
    [[2.5, 2.0], [2.0, 6.5]]
    """
    wide = gram.double()
    return wide + share * wide.diagonal().mean() * torch.eye(len(wide)).to(wide)

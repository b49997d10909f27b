"""Dobi-SVD: ranks trained by truncating activations (arXiv:2502.02723)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Measurement
from harness.registry import find, method
from harness.toolkit.host_memory import compute_device
from harness.toolkit.saved_model import replace
from methods._kernels.low_rank.curvature import backward, differentiable, likelihood
from methods._kernels.low_rank.directions import (
    Directions,
    ExactDirections,
    completed,
)
from methods._kernels.low_rank.factors import Group, linears, matrix, stacked
from methods._kernels.low_rank.installed import install
from methods._kernels.low_rank.remapped import bits_per_rank, remapped_layer
from methods._kernels.low_rank.soft_cut import outputs_through
from methods._kernels.low_rank.trained_ranks import (
    Cut,
    SoftCuts,
    checked_budget,
    rounded_up,
    whole_ranks,
)


@method(
    "dobi_svd",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    stochastic=True,
)
class DobiSvd:
    """Trains the rank of every matrix by cutting off singular values of its outputs.

    With X the inputs of a weight W in one window of text, one row for each token, the
    outputs ``X W^T = U diag(s) V^T`` are replaced by ``U diag(t s) V^T`` with the mask
    ``t_i = (tanh(beta (p - i)) + 1) / 2``: singular values up to the position p stay.
    The position of each matrix is a real number and the only thing that is trained, by
    Adam on ``loss = perplexity + penalty |kept - (1 - ratio)|``, where ``kept`` is the
    share of weights that all positions together leave. A rank of k costs
    ``k (out + in)`` weights, and never more than the dense matrix. The gradient through
    the SVD is finite where singular values are equal (``masked`` in the kernels).

    Then a second pass over the windows cuts every output at its position. The
    directions V of all windows give by incremental PCA the k common ones, the columns
    of B, and the weight becomes ``B B^T W``: the output of the dense matrix, projected
    onto them. It is stored as the two thin factors B and ``B^T W``. Where a window has
    fewer tokens than the matrix has singular values, a position counts in proportion.

    ``storage: remapped`` stores ``min(out, in)`` numbers of each direction of either
    factor in 8 bits (the dynamic data type of arXiv:2110.02861, with one scale each)
    and the other numbers of the longer factor in the dtype of the network. In 16 bits
    a rank then costs about ``max(out, in)`` numbers, so that every rank up to the full
    one saves memory. The ratio is a share of bits then, scales counted.

    The paper is arXiv:2502.02723, of which the abstract was available: the equations
    are those of the released code (wangqinsi1/Dobi-SVD at 220ab55), and so are the
    defaults: 256 windows, 20 epochs, beta 10, penalty 200, steps of 5 positions of
    2,048, which fall to 4 within an epoch and rise again in the next. Every window is
    decomposed once for each matrix and epoch: on a CPU only small models with few
    windows are feasible. The released code differs in these points. It keeps the
    positions with the lowest loss of a single window, of every eighth (``keep: best``
    looks at all), rounds every rank up (``ranks: trained``; here one factor for all
    positions brings them to the budget), and its PCA subtracts the mean of the
    directions, whose signs are arbitrary (``pca: centred``). Without an option: it
    draws the SVD at random (``svd_lowrank``), penalises positions out of range (here
    they are clamped), gives half of its weight to the last direction in the second
    pass, adds several windows to the PCA at once, truncates outputs with their bias,
    cannot treat matrices narrower than a window, and decomposes a matrix also where
    this makes it larger (here the matrix stays dense).

    Args:
        samples: Number of calibration windows to read, from the first; 0 for all.
        epochs: Passes over these windows.
        learning_rate: Size of a step, as a share of the positions of a matrix.
        penalty: What a deviation of 1 from the requested share adds to the loss.
        beta: How sharp the mask is.
        keep: The positions after the ``last`` step, or the ``best``, before the step
            with the lowest loss.
        ranks: Whole ranks within the ``budget``, or the ``trained`` ones rounded up,
            which may miss it on either side.
        pca: ``incremental``, ``centred`` (incremental with the mean subtracted) or
            ``exact``, which needs the memory of an ``(out, out)`` matrix for each
            weight.
        storage: ``factors``, two thin matrices, or ``remapped``.
    """

    samples: int = 256
    epochs: int = 20
    learning_rate: float = 5 / 2048
    penalty: float = 200.0
    beta: float = 10.0
    keep: Literal["last", "best"] = "last"
    ranks: Literal["budget", "trained"] = "budget"
    pca: Literal["incremental", "centred", "exact"] = "incremental"
    storage: Literal["factors", "remapped"] = "factors"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is outside its range.
        """
        if self.samples < 0:
            raise ValueError(f"samples {self.samples} is below 0 (0 reads all)")
        if self.epochs < 0:
            raise ValueError(f"epochs {self.epochs} is below 0 (0 gives equal shares)")
        for name in ("learning_rate", "penalty", "beta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0")

    def facts(self) -> dict[str, Any]:
        """The ratio is a share of bits where the factors are remapped."""
        of = "bits" if self.storage == "remapped" else "weights"
        return {**find("method", "dobi_svd").facts, "ratio_of": of}

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix at its trained rank.

        Args:
            fitted: None; the training depends on the ratio, so that there is no
                ``fit``.
            ratio: The share of weights (of bits, if remapped) to remove.
            ctx: Gives the dense network and the calibration windows.

        Returns:
            The compressed network.
        """
        net, modules = ctx.dense(), linears(ctx.model)
        if ratio == 0:
            return net
        cuts = [self._cut(name, module) for name, module in modules.items()]
        budget = checked_budget(cuts, ratio)
        shares = self._trained(cuts, ratio, ctx)
        exact = self.ranks == "budget"
        found = whole_ranks(cuts, shares, budget) if exact else rounded_up(cuts, shares)
        # A rank that costs as much as the dense matrix leaves the matrix dense.
        both = zip(cuts, found, strict=True)
        ranks = {cut: rank for cut, rank in both if cut.cost(rank) < cut.size}
        bases = self._bases(ranks, ctx)
        for cut, rank in ranks.items():
            group = Group((cut.name,))
            weight = stacked(modules, group).double()
            left = completed(bases[cut.name], weight, rank).T  # B, (out, rank)
            if self.storage == "factors":
                install(net, group, left, left.T @ weight)
            else:
                made = remapped_layer(modules[cut.name], left, left.T @ weight)
                replace(net, cut.name, made)
        return net

    def _cut(self, name: str, module: nn.Module) -> Cut:
        weight = matrix(module)
        (out, inner), bits = weight.shape, 8 * weight.element_size()
        price = bits * (out + inner)
        if self.storage == "remapped":
            price = bits_per_rank(out, inner, bits)
        return Cut(name, min(out, inner), bits * out * inner, price)

    def _trained(self, cuts: Sequence[Cut], ratio: float, ctx: Context) -> Tensor:
        """The trained position of each matrix, as a share of its full rank."""
        net = differentiable(ctx).requires_grad_(False)
        tokens = ctx.calibration().tokens[: self.samples or None]
        soft = SoftCuts(cuts, ratio, self.beta, compute_device(net))
        losses: list[float] = []

        def loss(logits: Tensor, ids: Tensor) -> Tensor:
            value = likelihood(logits, ids).exp()
            gap = (soft.left() - (1 - ratio)).abs()
            value = value + self.penalty * gap.to(value.device)
            losses.append(float(value.detach()))
            return value

        optimizer = torch.optim.Adam([soft.shares], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=len(tokens), eta_min=0.8 * self.learning_rate
        )
        order = ctx.stream("order")
        best, lowest = soft.shares.detach().clone(), math.inf
        ctx.trained.add(self.epochs, self.epochs * len(tokens))
        for epoch in range(self.epochs):
            losses.clear()
            shuffled = tokens[torch.randperm(len(tokens), generator=order)]
            with outputs_through(net, soft.functions()):
                for _ in backward(net, shuffled, loss):
                    if losses[-1] < lowest:
                        best, lowest = soft.shares.detach().clone(), losses[-1]
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    soft.clamp()
            mean = sum(losses) / len(losses)
            ctx.record(Measurement(metric="truncation_loss", value=mean, step=epoch))
        return (best if self.keep == "best" else soft.shares.detach()).cpu()

    def _bases(
        self, ranks: Mapping[Cut, int], ctx: Context
    ) -> dict[str, Tensor | None]:
        """The common directions of the outputs of each matrix, as orthonormal rows."""
        found: dict[str, Directions | ExactDirections] = {}
        functions: dict[str, Callable[[Tensor], Tensor]] = {}
        for cut, rank in ranks.items():
            if self.pca == "exact":
                found[cut.name] = ExactDirections(rank)
            else:
                centred = self.pca == "centred"
                found[cut.name] = Directions(rank, centred=centred)
            functions[cut.name] = partial(_cut_off, cut, rank, found[cut.name])
        net = ctx.dense()
        device = compute_device(net)
        with torch.inference_mode(), outputs_through(net, functions):
            for window in ctx.calibration().tokens[: self.samples or None]:
                net(input_ids=window[None].to(device), use_cache=False)
        return {name: one.basis() for name, one in found.items()}


def _cut_off(
    cut: Cut, rank: int, seen: Directions | ExactDirections, outputs: Tensor
) -> Tensor:
    """Outputs of one window cut at the position of a rank; notes their directions."""
    # Rounded up: rank 3 of 8 is position 2 of 4.
    count = -(-rank * cut.count(len(outputs)) // cut.full)
    left, values, right = torch.linalg.svd(outputs, full_matrices=False)
    # A direction that no output has is arbitrary: inputs may be zero, or tokens equal.
    tiny = values[0] * torch.finfo(values.dtype).eps * max(outputs.shape)
    real = right[:count][values[:count] > tiny]
    if len(real):
        seen.add(real.double())
    return (left[:, :count] * values[:count]) @ right[:count]

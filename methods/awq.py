"""AWQ: scales channels by their activations before rounding (arXiv:2306.00978)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Context
from harness.registry import method
from harness.toolkit.calibration import Statistics
from harness.toolkit.saved_model import replace
from methods._kernels.integer_grid import Bits, Levels, fit_grid, in_groups
from methods._kernels.low_rank.factors import matrix
from methods._kernels.prefix import behind_prefix, gram_of
from methods._kernels.rounded import (
    Rounded,
    check_group_size,
    matrices,
    removed_bits,
    rounded_layer,
)

_STEPS = 20  # exponents from 0 to 0.95, and shrunken ranges from 1 to 0.55
_LEAST = 1e-4  # mean activations below count as this
_UNCLIPPED = ("query", "key", "qkv")


@method(
    "awq",
    ratio_of="bits",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
)
class Awq:
    """Rounds weights on a grid that is finer for channels with large activations.

    Let ``a_j = mean |x_j|`` over the calibration tokens, for input channel j. The
    matrices that read the input x are scaled by ``s_j = a_j^alpha`` (then divided by
    ``sqrt(max s min s)``), rounded, and scaled back:
    ``W' = round(W diag(s)) diag(1/s)``. Of 20 exponents alpha from 0 to 0.95, the one
    with the least error ``mean ||(W - W') x||^2``, summed over these matrices, is
    taken. Then each group of weights may be clipped: of ten ranges from the whole to
    0.55 of the largest weight, the one with the least error of the group's own product
    is taken; query and key are not clipped. The grid of a group is that of ``gptq``:
    codes from 0 to ``2^bits - 1`` with a scale and a zero point, or without a zero
    point with ``symmetric``.

    The inputs x are those of the network before rounding. Embeddings, norms, biases and
    the head stay as they are. The method has a single ratio, the share of bits removed
    from a weight; scales, zero points and divisors s count in the achieved ratio.

    The paper is arXiv:2306.00978. It folds ``1/s`` into the norm or matrix before,
    which costs no bits but exists only where such a matrix does; here s is stored, one
    number for each column. Its code measures the error of query, key and value at the
    output of the attention, that of gate and up at the output of the MLP; here at the
    outputs of the matrices themselves.

    Args:
        bits: Bits per weight: 8, 4, 3 or 2.
        group_size: Number of weights in a row that share a scale; None for a whole row.
        symmetric: Whether to leave the zero points out.
        scale: Whether to search the exponent; without it s is 1.
        clip: Whether to search the ranges.
    """

    bits: Bits = 4
    group_size: int | None = 128
    symmetric: bool = False
    scale: bool = True
    clip: bool = True

    def __post_init__(self) -> None:
        """Check the size of a group."""
        check_group_size(self.group_size)

    def ratios(self, dtype: str = "float32") -> tuple[float, ...]:
        """The share of bits removed from a weight of a dtype."""
        return (removed_bits(self.bits, dtype),)

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """The network with every matrix rounded.

        Args:
            fitted: None; the method has no ``fit``.
            ratio: 0 for the dense network; any other value means the bits of the
                options.
            ctx: Gives the dense network and the calibration text.

        Returns:
            A network whose matrices are stored as codes, scales and divisors.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        modules = matrices(ctx, net)
        roles = {path: ctx.model.role(path) for path, _ in ctx.model.modules()}
        scales: dict[str, Tensor] = {}
        made: dict[str, Rounded] = {}
        for name, seen in behind_prefix(net, ctx, modules):
            site = seen.sites[name]
            if site not in scales:
                scales[site] = self._search(site, seen, modules)
            # A thin factor of a chain lies below the matrix that it replaced, and has
            # the role of that matrix.
            owner = next(p for p in roles if name == p or name.startswith(f"{p}."))
            clip = self.clip and roles[owner] not in _UNCLIPPED
            made[name] = self.rounded(
                modules[name], gram_of(seen, name), scales[site], clip=clip
            )
        for name, layer in made.items():  # only now: the inputs are those before
            net = replace(net, name, layer)
        return net

    def _search(
        self, site: str, seen: Statistics, modules: dict[str, nn.Module]
    ) -> Tensor:
        """The scales s of the matrices that read one input: float64, ``(in,)``."""
        gram = gram_of(seen, site)
        mean = seen.abs[site] / seen.tokens[site]  # a_j = mean |x_j|, (in,)
        if not self.scale:
            return torch.ones_like(mean)
        # Query, key and value read one input, and get one s.
        members = [
            matrix(module).double()
            for name, module in modules.items()
            if seen.sites.get(name) == site
        ]
        best, chosen = float("inf"), torch.ones_like(mean)
        for step in range(_STEPS):
            # s_j = a_j^alpha, then divided so that the largest and the smallest one are
            # as far from 1.
            scales = mean.clamp_min(_LEAST) ** (step / _STEPS)
            scales = scales / (scales.max() * scales.min()).sqrt()
            error = 0.0
            for weight in members:
                gap = weight - self._nearest(weight * scales) / scales
                # tr(D G D^T) = mean ||D x||^2 for the difference D of the weights: no
                # input has to be stored.
                error += float(((gap @ gram) * gap).sum())
            if error < best:
                best, chosen = error, scales
        return chosen

    @property
    def _levels(self) -> Levels:
        return "full" if self.symmetric else "asymmetric"

    def _nearest(self, weight: Tensor) -> Tensor:
        """The rounded weight, shape ``(out, in)``."""
        size = min(self.group_size or weight.shape[1], weight.shape[1])
        groups = in_groups(weight, size)
        grid = fit_grid(groups, self.bits, self._levels, torch.float32)
        return grid.nearest(groups).flatten(1)[:, : weight.shape[1]]

    def rounded(
        self, module: nn.Module, gram: Tensor, scales: Tensor, *, clip: bool
    ) -> Rounded:
        """A rounded copy of a linear layer.

        Args:
            module: A linear layer, or GPT-2's transposed one.
            gram: The mean of ``x x^T`` over its inputs, shape ``(in, in)``.
            scales: The scales s, shape ``(in,)``.
            clip: Whether to search the ranges.

        Returns:
            The layer, with scales in the dtype of the weight.
        """
        dtype = matrix(module).dtype
        scales = scales.to(dtype).double()  # as the layer stores them
        weight = matrix(module).double() * scales.to(matrix(module).device)
        size = min(self.group_size or weight.shape[1], weight.shape[1])
        groups = in_groups(weight, size)
        if clip:
            # The scaled weight W diag(s) meets the inputs x_j / s_j: their second
            # moment.
            inside = gram.to(scales) / scales / scales[:, None]
            groups = self._clipped(groups, _blocks(inside, size).to(weight.device))
        grid = fit_grid(groups, self.bits, self._levels, dtype)
        # Without the zeros that filled up the last group.
        codes = grid.codes(groups).flatten(1)[:, : weight.shape[1]]
        return rounded_layer(module, codes, grid, group_size=size, divisors=scales)

    def _clipped(self, groups: Tensor, grams: Tensor) -> Tensor:
        """Weights with each group clipped to its best range."""
        largest = groups.abs().amax(-1, keepdim=True)  # (out, groups, 1)
        best, kept = torch.full_like(largest, torch.inf), groups
        for step in range(_STEPS // 2):
            limit = largest * (1 - step / _STEPS)
            cut = torch.minimum(torch.maximum(groups, -limit), limit)
            grid = fit_grid(cut, self.bits, self._levels, torch.float32)
            gap = groups - grid.nearest(cut)
            # For output o and group g the error of the group's own product, D G_g D^T:
            # the inputs of other groups do not enter.
            error = torch.einsum("ogi,gij,ogj->og", gap, grams, gap)[..., None]
            better = error < best
            best, kept = (
                torch.where(better, error, best),
                torch.where(better, cut, kept),
            )
        return kept


def _blocks(gram: Tensor, size: int) -> Tensor:
    """The diagonal blocks of a Gram matrix, one for each group.

    Args:
        gram: Second moment of the inputs, shape ``(in, in)``.
        size: Channels of a group; the last group is filled up with zeros.

    Returns:
        Shape ``(groups, size, size)``.
    """
    width = len(gram)
    padded = nn.functional.pad(gram, (0, -width % size, 0, -width % size))
    count = len(padded) // size
    return torch.stack(
        [
            padded[k * size : (k + 1) * size, k * size : (k + 1) * size]
            for k in range(count)
        ]
    )

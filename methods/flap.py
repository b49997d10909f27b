"""FLAP: structured pruning by the fluctuation of channels (arXiv:2312.11983)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from harness.core import Context, Model
from harness.registry import method
from harness.toolkit.blockwise import stream
from methods._kernels import units
from methods._kernels.low_rank.factors import check_finite, matrix


@dataclass(frozen=True, slots=True)
class Channels:
    """First and second moments of the input channels of one reader.

    Args:
        mean: Mean over all calibration tokens, float64, shape ``(in,)``.
        variance: Sample variance over the tokens, float64, shape ``(in,)``.
    """

    mean: Tensor
    variance: Tensor


@method(
    "flap",
    ratio_of="weights",
    needs={"linears", "calibration", "units"},
    kinds={"causal_lm"},
    tolerance=0.01,
)
class Flap:
    """Removes channels that hardly fluctuate and replaces them by their mean, a bias.

    The input channel j of an output or down projection W has the score
    ``S_j = var(x_j) ||W_:j||^2``: what the output varies if the channel is replaced by
    its mean. A unit is an MLP neuron, or a key-value head with its query heads, whose
    score is the mean over its channels. The scores of each projection are standardised
    to mean 0 and deviation 1, so that units of all blocks and of both kinds can be
    ranked together (``AL-AM`` in the paper: adaptive across layers and modules). The
    lowest leave until the share ``ratio`` of the block weights is gone; each attention
    and each MLP keeps one unit. The projection gets the bias ``W_:R mean(x_R)`` for the
    removed channels R, which counts as parameters. Nothing is trained.

    The paper is arXiv:2312.11983. Statistics are those of the dense model. The paper
    ranks attention heads of models without key-value groups; with groups, a key-value
    head and its query heads leave together, since one key serves them all.

    Args:
        score: ``variance`` is the score above; ``magnitude`` is the paper's baseline
            ``mean(x_j^2) ||W_:j||^2`` (WIFN), which does not ask whether a bias can
            replace the channel.
        compensate: Whether the means become a bias.
    """

    score: Literal["variance", "magnitude"] = "variance"
    compensate: bool = True

    def fit(self, model: Model, ctx: Context) -> dict[str, Channels]:
        """Moments of the inputs of every reader, by its module path."""
        found = units.units_of(model)
        made: dict[str, Channels] = {}
        running = stream(model, ctx.calibration().tokens)
        for number, (path, block) in enumerate(running):
            here = [u.reader for u in found if u.reader.startswith(f"{path}.")]
            sums = {name: _Sums() for name in here}
            handles = [
                model.net.get_submodule(name).register_forward_pre_hook(sums[name].add)
                for name in here
            ]
            try:
                # Through the dense block: statistics are those of the dense model.
                running.advance(number, block)
            finally:
                for handle in handles:
                    handle.remove()
            made |= {name: sums[name].channels() for name in here}
        return made

    def compress(
        self, fitted: dict[str, Channels], ratio: float, ctx: Context
    ) -> nn.Module:
        """A network with narrower matrices.

        Args:
            fitted: The statistics of every block, from ``fit``; not changed.
            ratio: The share of the block weights to remove, in [0, 1).
            ctx: Gives a copy of the dense network.

        Returns:
            A network with fewer heads and neurons, and a bias in every cut projection.

        Raises:
            Unsupported: If the ratio leaves no unit in a block.
        """
        net = ctx.dense()
        if ratio == 0:
            return net
        found = units.units_of(ctx.model)
        scores = [self._scores(net, one, fitted[one.reader]) for one in found]
        out = matrix(net.get_submodule(found[0].reader)).shape[0]
        # A bias that exists is changed at no cost; a new one has `out` numbers, which
        # the budget pays for.
        biased = all(net.get_submodule(u.reader).bias is not None for u in found)
        added = out if self.compensate and not biased else 0
        kept = units.choose(ctx.model, found, scores, ratio, added=added)
        for one, stay in zip(found, kept, strict=True):
            if len(stay) == one.count:
                continue
            gone = torch.ones(one.count, dtype=torch.bool)
            gone[stay] = False
            channels = units.channels_of(gone.nonzero()[:, 0], one.channels(net))
            bias = None
            if self.compensate:
                weight = matrix(net.get_submodule(one.reader)).double()
                mean = fitted[one.reader].mean.to(weight.device)
                channels = channels.to(weight.device)
                # W_:R mean(x_R), (out,): what the removed channels add on average.
                bias = weight[:, channels] @ mean[channels]
            units.narrow(net, one, stay, bias)
        return net

    def _scores(self, net: nn.Module, one: units.Units, seen: Channels) -> Tensor:
        weight = matrix(net.get_submodule(one.reader)).double().cpu()
        check_finite(weight, f"the weight of {one.reader}")
        # mean(x^2) = var(x) + mean(x)^2
        moved = seen.variance
        if self.score == "magnitude":
            moved = moved + seen.mean.square()
        # S_j for each channel, then the mean over the channels of a unit: (count,).
        scores = (moved * weight.square().sum(0)).view(one.count, -1).mean(1)
        # Raw scores of two projections have different units and differ by orders of
        # magnitude: a common ranking would empty the smaller ones.
        spread = scores.std() if one.count > 1 else scores.new_zeros(())
        return (scores - scores.mean()) / (spread if spread > 0 else 1.0)


class _Sums:
    """Running sums of a module's inputs, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Add the inputs of one forward pass; called as a forward pre-hook."""
        rows = args[0].detach().flatten(0, -2).double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def channels(self) -> Channels:
        """The moments of what was seen."""
        assert isinstance(self.total, Tensor)
        assert isinstance(self.squares, Tensor)
        mean = self.total / self.count
        # The difference of two large numbers: in float64 it has digits left, and
        # rounding can make it slightly negative.
        variance = (self.squares - self.count * mean.square()) / max(1, self.count - 1)
        return Channels(mean.cpu(), variance.clamp_min(0).cpu())

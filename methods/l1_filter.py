"""L1-norm filter pruning (Li et al. 2017, arXiv:1608.08710)."""

from __future__ import annotations

from torch import Tensor, nn

from harness.core import Context
from harness.registry import method
from harness.toolkit.training import Recipe
from methods._kernels.filters import surgery


@method(
    "l1_filter", ratio_of="parameters", needs={"training_data", "convs"}, tolerance=0.1,
    kinds={"classifier"},
)  # fmt: skip
class L1Filter:
    """The filters with the smallest sums of absolute weights leave.

    The score of filter f is ``sum |W_f|`` over its weights, of shape
    ``(in, height, width)``. Every layer loses the same share of its filters, so that
    the share ``ratio`` of all parameters is gone. By default nothing is trained. The
    paper is arXiv:1608.08710; it sets the share of each stage by hand, from the
    sensitivity of its layers.

    Args:
        finetune: Training afterwards; None for none.
    """

    finetune: Recipe | None = None

    def compress(self, fitted: None, ratio: float, ctx: Context) -> nn.Module:
        """A narrower network."""
        net = ctx.dense()
        if ratio == 0:
            return net
        scores = surgery.uniform(norms(surgery.groups(ctx.model, net)))
        return surgery.narrow(
            net, scores, ratio, ctx, recipe=self.finetune, name="l1_filter"
        )


def norms(groups: list[surgery.Group]) -> dict[str, Tensor]:
    """Sum of absolute weights of each filter, by convolution."""
    return {g.name: g.conv.weight.detach().abs().sum((1, 2, 3)) for g in groups}

"""HRank: filters whose feature maps have low rank leave (arXiv:2002.10179)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.core import Context, Model
from harness.registry import method
from harness.training import Recipe
from methods import _filters


@method(
    "hrank", ratio_of="parameters", needs={"training_data", "convs"}, exact=0.1,
    kinds={"classifier"}, random=True,
)  # fmt: skip
class HRank:
    """Average rank of each filter's map behind the ReLU; the same share of every layer.

    The released code retrains layer by layer with rates set by hand; here all layers
    lose the same share at once.

    Args:
        batches: Batches that ranks are means over (the released ``limit``).
        batch_size: Images in each.
        finetune: Training afterwards; None for none.
    """

    batches: int = 5
    batch_size: int = 100
    finetune: Recipe | None = None

    def __post_init__(self) -> None:
        """Refuse means over nothing.

        Raises:
            ValueError: If ``batches`` or ``batch_size`` is not positive.
        """
        if self.batches < 1 or self.batch_size < 1:
            raise ValueError(
                f"batches is {self.batches} and batch_size {self.batch_size}; both are "
                "at least 1"
            )

    def fit(self, model: Model, ctx: Context) -> dict[str, Tensor]:
        """The average rank of every filter's feature map."""
        net = ctx.dense().to(ctx.device).eval()
        found = _filters.groups(model, net)
        totals = {g.name: torch.zeros(g.size) for g in found}
        count = 0

        def watch(group: _filters.Group) -> None:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                totals[group.name] += ranks(output).sum(0).cpu()

            group.output.register_forward_hook(hook)

        for group in found:
            watch(group)
        with torch.inference_mode():
            for images, _ in _filters.batches(
                ctx, "hrank", self.batches, self.batch_size
            ):
                net(images)
                count += len(images)
        return {name: total / count for name, total in totals.items()}

    def compress(
        self, fitted: dict[str, Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """A narrower network."""
        net = ctx.dense()
        if ratio == 0:
            return net
        budget = _filters.budget_of(ctx.model, ratio)
        scores = _filters.uniform(fitted)
        small = _filters.prune_to(ctx.model, net, scores, budget)
        _filters.retrain(small, self.finetune, ctx, name="hrank")
        _filters.record_widths(ctx.model, small, ctx)
        return small


def ranks(maps: Tensor) -> Tensor:
    """Rank of each map behind a ReLU.

    Args:
        maps: Before the ReLU, shape ``(batch, channels, height, width)``.

    Returns:
        Shape ``(batch, channels)``, float32.
    """
    return torch.linalg.matrix_rank(maps.relu()).float()

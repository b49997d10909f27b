"""HRank: filters whose feature maps have low rank leave (arXiv:2002.10179)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from harness.registry import method
from methods._kernels.filters import surgery
from methods._kernels.filters.activations import outputs
from methods._kernels.filters.scored import Scored


@method(
    "hrank", ratio_of="parameters", needs={"training_data", "convs"}, tolerance=0.1,
    kinds={"classifier"}, stochastic=True,
)  # fmt: skip
class HRank(Scored):
    """Average rank of each filter's map behind the ReLU; the same share of every layer.

    The score of filter f is ``mean_b rank(relu(A_bf))``, with ``A_bf`` the map of
    shape ``(height, width)`` that it gives for image b: a map of low rank carries
    little information. The lowest filters leave until the share ``ratio`` of the
    parameters is gone. By default 500 images are read and nothing is trained.

    The paper is arXiv:2002.10179. The released code retrains layer by layer with rates
    set by hand; here all layers lose the same share at once.

    Args:
        batches: Batches that ranks are means over (the released ``limit``).
    """

    batches: int = 5

    stream: ClassVar[str] = "hrank"
    layerwise: ClassVar[bool] = True

    @torch.no_grad()
    def score(
        self,
        net: nn.Module,
        found: list[surgery.Group],
        images: Tensor,
        labels: Tensor,
    ) -> dict[str, Tensor]:
        """The average rank of every filter's maps, each of shape ``(filters,)``."""
        maps, _ = outputs(net, {g.name: g.output for g in found}, images)
        return {name: ranks(m).mean(0) for name, m in maps.items()}


def ranks(maps: Tensor) -> Tensor:
    """Rank of each map behind a ReLU.

    Args:
        maps: Before the ReLU, shape ``(batch, channels, height, width)``.

    Returns:
        Shape ``(batch, channels)``, float32.
    """
    return torch.linalg.matrix_rank(maps.relu()).float()

"""BranchyNet: early exit where the entropy is low (arXiv:1709.01686)."""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar, Literal

from harness.registry import method
from harness.toolkit.training import Recipe
from methods._kernels.early_exit.network import Rule
from methods._kernels.early_exit.training import EarlyExit


@method(
    "branchynet", ratio_of="macs", needs={"training_data", "exits"}, tolerance=1.0,
    kinds={"classifier"}, stochastic=True, version=3,
)  # fmt: skip
class BranchyNet(EarlyExit):
    """Exits with a convolution of their own, trained on from the dense network by Adam.

    A sample leaves at exit l if its prediction p there, a softmax over C classes, has
    little entropy: ``-sum_c p_c log p_c < t_l log C``, with a threshold t_l between 0
    (no sample leaves) and 1. The head of an exit is a 3 x 3 convolution, a ReLU, an
    average pooling and a linear layer. Network and heads are trained together, to
    minimise ``sum_l w_l CE_l + w CE`` over the exits and the end of the network. The
    thresholds of a ratio are those of the highest validation accuracy that save this
    share of the multiply-adds on average.

    By default training starts from the dense network, with Adam at a constant rate of
    1e-3. The paper is arXiv:1709.01686.

    Args:
        early_weight: Weight of the first exit's loss; those behind weigh
            ``late_weight``, as the network itself does.
        late_weight: See ``early_weight``; 1.0 and 0.3 were the paper's best.
    """

    train: Recipe = field(
        default_factory=lambda: Recipe(optimizer="adam", lr=1e-3, schedule="constant")
    )
    start: Literal["scratch", "dense"] = "dense"
    early_weight: float = 1.0
    late_weight: float = 0.3

    rule: ClassVar[Rule] = "entropy"
    conv: ClassVar[bool] = True

    def weights(self, exits: int) -> list[float]:
        """Weight of each exit's loss, and last of the network's own."""
        return [self.early_weight] + [self.late_weight] * exits

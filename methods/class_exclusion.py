"""Early exit by excluding classes until one is left (arXiv:2309.13443)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from harness.registry import method
from methods._kernels.early_exit.network import Rule
from methods._kernels.early_exit.training import EarlyExit


@method(
    "class_exclusion", ratio_of="macs", needs={"training_data", "exits"}, tolerance=1.0,
    kinds={"classifier"}, stochastic=True, version=2,
)  # fmt: skip
class ClassExclusion(EarlyExit):
    """One logistic unit for each class at every exit rules classes out.

    As in TUDa-HWAI/eece: weighted binary cross-entropy at the exits, joint training
    with the network, deeper exits weighing more. Unlike there, an excluded class gets
    a final logit of minus infinity (there it is multiplied by zero, and can win), and
    MACs are counted by one counter for every layer.

    Args:
        false_exclusion: Weight of the true class in the loss, divided by the number of
            other classes; 4 is the released 36 at 10 classes and 396 at 100.
    """

    false_exclusion: float = 4.0

    rule: ClassVar[Rule] = "exclusion"

    def loss_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy over all classes, the true one weighing more."""
        classes = logits.shape[1]
        target = functional.one_hot(labels, classes).to(logits.dtype)
        weight = logits.new_tensor(self.false_exclusion * (classes - 1))
        return functional.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weight
        )

"""Early exit by excluding classes until one is left (arXiv:2309.13443)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from harness.registry import method
from methods._kernels.early_exit.network import Rule
from methods._kernels.early_exit.training import EarlyExit


@method(
    "class_exclusion", ratio_of="macs", needs={"training_data", "exits"}, tolerance=1.0,
    kinds={"classifier"}, stochastic=True, version=4,
)  # fmt: skip
class ClassExclusion(EarlyExit):
    """Every exit rules classes out; a sample leaves where one class is left.

    At exit l a linear head gives a probability ``p_c`` to each class c. A class stays
    while ``p_c > beta_l max p``, with the exit's threshold beta, and the likeliest
    class is put back if an earlier exit had excluded it. All else is as in the released
    code, TUDa-HWAI/eece: one logistic unit for each class, weighted binary
    cross-entropy at the exits, joint training with the network, and deeper exits weigh
    more. Unlike there, an excluded class gets a final logit of minus infinity (there it
    is multiplied by zero, and can win), and MACs are counted by one counter for every
    layer.

    ``search: released`` is the released search for the thresholds; its smallest
    threshold is 0.01, so that no exit can be switched off. With ``loss: softmax`` the
    heads are those of ``confidence_exit``: only the rule differs then.

    Args:
        false_exclusion: Weight of the true class in the binary loss, divided by the
            number of other classes; 4 is the released 36 at 10 classes and 396 at 100.
        loss: Of the heads: ``binary`` cross-entropy of each class, as in the paper, or
            ``softmax`` cross-entropy, whose softmax gives the probabilities.
    """

    false_exclusion: float = 4.0
    loss: Literal["binary", "softmax"] = "binary"

    rule: ClassVar[Rule] = "exclusion"

    def exit_rule(self) -> Rule:
        """Exclusion by the probabilities that the heads were trained for."""
        return "exclusion" if self.loss == "binary" else "softmax_exclusion"

    def loss_at(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of one exit: binary cross-entropy, the mean of classes and images.

        With the logistic probability ``p_c`` of class c it is ``-w log p_c`` for the
        true class and ``-log(1 - p_c)`` for every other one, with
        ``w = false_exclusion (classes - 1)``: to exclude the true class costs most.
        """
        if self.loss == "softmax":
            return super().loss_at(logits, labels)
        classes = logits.shape[1]
        target = functional.one_hot(labels, classes).to(logits.dtype)
        weight = logits.new_tensor(self.false_exclusion * (classes - 1))
        return functional.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weight
        )

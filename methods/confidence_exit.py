"""Early exit where the softmax is confident: the conventional way."""

from __future__ import annotations

from typing import ClassVar

from harness.registry import method
from methods._kernels.early_exit.network import Rule
from methods._kernels.early_exit.training import EarlyExit


@method(
    "confidence_exit", ratio_of="macs", needs={"training_data", "exits"}, tolerance=1.0,
    kinds={"classifier"}, stochastic=True, version=3,
)  # fmt: skip
class ConfidenceExit(EarlyExit):
    """The same heads, weights and search as class exclusion, with softmax losses.

    The baseline ``CR`` of TUDa-HWAI/eece (arXiv:2309.13443): a sample leaves where the
    probability of its best class is above the exit's threshold,
    ``max_c p_c > 1 - t_l (1 - 1 / C)``, with p the softmax at exit l, C the number of
    classes and t_l between 0 (no sample leaves) and 1 (every sample).
    """

    rule: ClassVar[Rule] = "confidence"

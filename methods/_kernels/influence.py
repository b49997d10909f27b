"""Block influence: how much each block of a language model turns the hidden states."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from harness.core import Model, NotFinite
from harness.toolkit.blockwise import stream


def block_influence(model: Model, tokens: Tensor) -> Tensor:
    """One minus the mean cosine between what enters and what leaves each block.

    Args:
        model: A language model.
        tokens: Windows, shape ``(N, T)``; every block runs once for each of them.

    Returns:
        The influence of each block: float64, shape ``(L,)``. That of the last one is
        taken before the final norm.

    Raises:
        NotFinite: If a hidden state is NaN or infinite; names the block.
    """
    running = stream(model, tokens)
    found = []
    for index, (path, block) in enumerate(running):
        # Copies: a block may write into the tensor that it reads.
        before = [state.clone() for state in running.states]
        running.advance(index, block)
        total, count = 0.0, 0
        for old, new in zip(before, running.states, strict=True):
            # Most cosines are near 1, and the influence is what is missing: in half
            # precision the difference from 1 would have few digits.
            # (windows, T)
            likeness = cosine_similarity(old.double(), new.double(), dim=-1)
            total += float(likeness.sum())
            count += likeness.numel()
        if not math.isfinite(total):
            raise NotFinite(f"the hidden states behind {path} are not finite")
        found.append(1 - total / count)
    return torch.tensor(found, dtype=torch.float64)

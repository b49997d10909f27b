"""Normal numbers that are a pure function of seed and index, equal on every device."""

from __future__ import annotations

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195), its constants as
# signed 64-bit numbers; integer products wrap alike on every device.
_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_CHUNK = 1 << 20  # indices at a time: bounds the memory of the integer work


def normals(seed: int, index: Tensor) -> Tensor:
    """Standard normal numbers, one for each index, the same in any order and anywhere.

    Each is the sum of twelve 16-bit uniform numbers, centred and divided by 2^16: mean
    0, variance 1 (to 2^-32), range +-6. Only integer arithmetic and one exact product
    by a power of two are used, so that a CPU and a GPU give the same bits, which a
    logarithm or a cosine would not.

    Args:
        seed: Any 64-bit integer that selects the stream.
        index: Int64, any shape, at least 0.

    Returns:
        Float32 of the shape of ``index``, on its device.
    """
    flat = index.reshape(-1)
    parts = [_normals(seed, part) for part in flat.split(_CHUNK)]
    return torch.cat(parts).view(index.shape)


def _normals(seed: int, index: Tensor) -> Tensor:
    # The seed is mixed first: added as it is, seed s + 1 would give the numbers of seed
    # s, shifted by one index.
    key = _mix(torch.tensor(seed, device=index.device))
    word = _mix(index + key)
    total = torch.zeros_like(index)
    # Three words of 64 bits are twelve numbers of 16 bits. The mask keeps the numbers 0
    # and 2 of a word, each in a lane of 32 bits, and the shifted word gives the numbers
    # 1 and 3. A lane adds up six numbers below 2^16: it never carries into the other
    # lane.
    for _ in range(3):
        word = _mix(word + _STEP)
        pairs = (word & 0x0000FFFF0000FFFF) + (_shift(word, 16) & 0x0000FFFF0000FFFF)
        total += pairs
    total = (total & 0xFFFFFFFF) + _shift(total, 32)  # twelve numbers
    # A uniform number in [0, 1) has variance 1/12, so that the sum of twelve has
    # variance 1. Twelve means of 65535 / 2 are taken off; the factor 2 keeps this an
    # integer.
    # 2 * sum - 12 * 65535 is below 2^24: exact in float32, and so is the product.
    return (2 * total - 12 * 0xFFFF).float().mul_(2.0**-17)


def _mix(word: Tensor) -> Tensor:
    # SplitMix64's last step. Each line can be inverted, so that two different inputs
    # never give the same word.
    word = (word ^ _shift(word, 30)) * _FIRST
    word = (word ^ _shift(word, 27)) * _SECOND
    return word ^ _shift(word, 31)


def _shift(word: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)

"""Normal numbers by index, against SplitMix64 in Python's own integers."""

import pytest
import torch

from methods._kernels import counter
from methods._kernels.counter import normals

WORD = (1 << 64) - 1


def _mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


def one(seed: int, index: int) -> float:
    """Three words of four 16-bit numbers: their sum, centred, over 2^16."""
    word = _mix((index + _mix(seed & WORD)) & WORD)
    total = 0
    for _ in range(3):
        word = _mix((word + 0x9E3779B97F4A7C15) & WORD)
        total += sum((word >> bits) & 0xFFFF for bits in (0, 16, 32, 48))
    return (total - 6 * 0xFFFF) / 2**16


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63 - 1])
def test_each_number_is_that_of_the_definition(seed):
    index = torch.tensor([[0, 1, 2], [3, 10**6, 2**62]])
    wanted = [[one(seed, i) for i in row] for row in index.tolist()]

    found = normals(seed, index)

    assert found.dtype == torch.float32
    assert found.tolist() == wanted


def test_numbers_do_not_depend_on_the_order_or_on_the_chunks(monkeypatch):
    index = torch.arange(10)
    whole = normals(3, index)
    monkeypatch.setattr(counter, "_CHUNK", 4)
    assert torch.equal(normals(3, index), whole)
    assert torch.equal(normals(3, index.flip(0)), whole.flip(0))


def test_the_numbers_are_normal():
    found = normals(7, torch.arange(100_000)).double()
    assert found.mean().item() == pytest.approx(0, abs=0.015)
    assert found.var().item() == pytest.approx(1, abs=0.02)
    # Of a sum of twelve uniform numbers the excess kurtosis is -1.2 / 12.
    kurtosis = (found**4).mean() / found.var() ** 2
    assert kurtosis.item() == pytest.approx(2.9, abs=0.06)

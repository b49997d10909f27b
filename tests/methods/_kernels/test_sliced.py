"""Blocks of another width than the embeddings, on parts that a hand can follow."""

import pytest
import torch
from torch import nn

from methods._kernels.sliced import RootMeanSquare, SlicedBlock, norms_of


def test_channels_that_were_cut_off_count_as_zeros_in_the_mean():
    # The mean of 9, 16 and two zeros is 25 / 4; its root is 2.5.
    norm = RootMeanSquare(4, eps=0.0)

    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([1.2, 1.6]))
    # With 6.25 more the root is that of 12.5.
    more = RootMeanSquare(4, eps=6.25)(torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(more, torch.tensor([3.0, 4.0]) / 12.5**0.5)
    assert norm.spec() == {"divisor": 4, "eps": 0.0}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_channels_of_half_precision_do_not_overflow(dtype):
    found = RootMeanSquare(2, eps=0.0)(torch.tensor([300.0, 400.0], dtype=dtype))

    assert found.dtype == dtype
    wanted = torch.tensor([300.0, 400.0]) / (250000 / 2) ** 0.5
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=0)


def test_float64_stays_so():
    # 1 + 1e-12 rounds to 1 in float32.
    found = RootMeanSquare(1, eps=0.0)(torch.tensor([[1 + 1e-12]], dtype=torch.float64))
    assert found.dtype == torch.float64
    norm = RootMeanSquare(2, eps=0.0)(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    assert float(norm[1]) == pytest.approx(1e-9 * 2**0.5, rel=1e-12)


class Attention(nn.Module):
    """Three times what it reads, with what an attention returns beside it."""

    def forward(self, hidden_states, scale=3.0):
        return scale * hidden_states, None


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.input_layernorm = Times(10.0)
        self.post_attention_layernorm = Times(100.0)
        self.mlp = Times(5.0)
        self.any = nn.Linear(1, 1)  # has the dtype that the block runs in


class OptBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()
        self.self_attn_layer_norm = Times(10.0)
        self.final_layer_norm = Times(100.0)
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(2, 2), nn.ReLU(), Times(2.0)


def filled(block: nn.Module, **spec) -> SlicedBlock:
    made = SlicedBlock.wrap(block, **spec)
    with torch.no_grad():
        for number, name in enumerate(("attention_shortcut", "mlp_shortcut"), 1):
            shortcut = getattr(made, name)
            shortcut.copy_(number * torch.eye(*shortcut.shape))
        if made.entry is not None:
            made.entry.copy_(7 * torch.eye(*made.entry.shape))
    return made


def test_a_block_adds_attention_and_mlp_to_a_changed_stream():
    block = filled(Block(), hidden=2, width=2, enters=False, leaves=False)
    x = torch.tensor([[[1.0, -1.0]]])

    # y = x A + 3 norm(x) = 31 x; z = 2 y + 5 norm(y) = 502 y.
    torch.testing.assert_close(block.attend(x), 31 * x)
    torch.testing.assert_close(block.feed(x), 502 * x)
    torch.testing.assert_close(block(x), 502 * 31 * x)
    torch.testing.assert_close(block(x, scale=1.0), 502 * 11 * x)
    assert block.entry is None


def test_the_first_and_the_last_block_read_and_write_the_full_width():
    spec = {"hidden": 3, "width": 2, "enters": True, "leaves": False}
    first = filled(Block(), **spec)
    x = torch.tensor([[[1.0, -1.0, 9.0]]])

    # The third channel of the embeddings is cut off; the others are seven times.
    torch.testing.assert_close(first(x), 502 * 31 * 7 * x[..., :2])
    assert first.spec() == spec
    last = SlicedBlock(Block(), hidden=3, width=2, enters=False, leaves=True)
    assert last.mlp_shortcut.shape == (2, 3)
    assert last.attention_shortcut.shape == (2, 2)
    assert last.mlp_shortcut.abs().max() == 0


def test_the_mlp_of_opt_is_in_the_block_itself():
    block = filled(OptBlock(), hidden=2, width=2, enters=False, leaves=False)
    with torch.no_grad():
        block.fc1.weight.copy_(torch.eye(2))
        block.fc1.bias.zero_()
    y = torch.tensor([[[1.0, -1.0]]])

    # 2 y, and of the positive channel 2 x 100 y more.
    torch.testing.assert_close(block.feed(y), torch.tensor([[[202.0, -2.0]]]))


def test_a_block_whose_parts_have_other_names_is_refused():
    assert norms_of(Block()) == ("input_layernorm", "post_attention_layernorm")
    assert norms_of(OptBlock()) == ("self_attn_layer_norm", "final_layer_norm")
    with pytest.raises(LookupError, match="no attention of a known name"):
        norms_of(nn.Linear(1, 1))
    other = Block()
    del other.post_attention_layernorm
    with pytest.raises(LookupError, match="a Block has no norms of known names"):
        norms_of(other)

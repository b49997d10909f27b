"""Blocks of a language model whose residual stream is narrower than its embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.toolkit.saved_model import layer


@layer("root_mean_square")
class RootMeanSquare(nn.Module):
    """Divides by the root mean square of all channels, also of those sliced away.

    Args:
        divisor: Number of channels before slicing; the sum of the squares of those
            that are left is divided by it.
        eps: Added to the mean square.
    """

    def __init__(self, divisor: int, eps: float) -> None:
        super().__init__()
        self.divisor = divisor
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., width)`` to the same shape."""
        # Squares overflow float16 above 256, and some channels of hidden states are
        # larger.
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # The channels that were cut off count as zero in the sum, but not in the
        # divisor: with the narrow width as divisor all outputs would be too small.
        square = wide.square().sum(-1, keepdim=True) / self.divisor
        return (wide * torch.rsqrt(square + self.eps)).to(x.dtype)

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {"divisor": self.divisor, "eps": self.eps}


@layer("sliced_block")
class SlicedBlock(nn.Module):
    """A block that adds attention and MLP to a residual stream of another width.

    It computes ``y = x A + attention(norm(x))`` and ``z = y B + mlp(norm(y))``, where A
    and B bring the stream from the directions of one place to those of the next. The
    first block also brings the embeddings to its own directions.

    Args:
        block: The block whose attention, MLP and norms it takes over.
        hidden: Width of the embeddings, before slicing.
        width: Width of the residual stream within the block.
        enters: Whether the block reads embeddings of width ``hidden``.
        leaves: Whether its output has the width ``hidden``.
    """

    entry: nn.Parameter | None

    def __init__(
        self, block: nn.Module, *, hidden: int, width: int, enters: bool, leaves: bool
    ) -> None:
        super().__init__()
        # Under their old names, so that paths and roles of the matrices stay valid.
        for name, child in block.named_children():
            setattr(self, name, child)
        self.hidden, self.width = hidden, width
        self.enters, self.leaves = enters, leaves
        like = next(block.parameters())

        def weight(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(rows, columns).to(like), like.requires_grad)

        # E, the first block's change from embeddings to its directions; then A and B.
        # All are zero until the method or the file fills them.
        self.entry = weight(hidden, width) if enters else None
        self.attention_shortcut = weight(width, width)
        self.mlp_shortcut = weight(width, hidden if leaves else width)

    @classmethod
    def wrap(cls, block: nn.Module, **spec: Any) -> SlicedBlock:
        """The layer around the block that stood at its place."""
        return cls(block, **spec)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Maps the stream before the block to the stream behind it."""
        x = hidden_states if self.entry is None else hidden_states @ self.entry
        return self.feed(self.attend(x, **kwargs))

    def attend(self, x: Tensor, **kwargs: Any) -> Tensor:
        """The stream behind the attention."""
        first, _ = norms_of(self)
        attention: Any = self.self_attn
        added = attention(hidden_states=getattr(self, first)(x), **kwargs)[0]
        out: Tensor = x @ self.attention_shortcut + added
        return out

    def feed(self, y: Tensor) -> Tensor:
        """The stream behind the MLP."""
        _, second = norms_of(self)
        x = getattr(self, second)(y)
        modules: Any = self
        if hasattr(self, "mlp"):
            added = modules.mlp(x)
        else:  # OPT has the MLP's parts in the block itself
            added = modules.fc2(modules.activation_fn(modules.fc1(x)))
        out: Tensor = y @ self.mlp_shortcut + added
        return out

    def spec(self) -> dict[str, Any]:
        """Keyword arguments that rebuild the layer."""
        return {
            "hidden": self.hidden,
            "width": self.width,
            "enters": self.enters,
            "leaves": self.leaves,
        }


def norms_of(block: nn.Module) -> tuple[str, str]:
    """The names of the norms before the attention and before the MLP.

    Args:
        block: A block, sliced or not.

    Returns:
        Names of two children of the block: the norm of the attention, and of the MLP.

    Raises:
        LookupError: If the block has none that are known, or calls its attention by
            another name.
    """
    if not hasattr(block, "self_attn"):
        raise LookupError(f"a {type(block).__name__} has no attention of a known name")
    known = (
        ("input_layernorm", "post_attention_layernorm"),
        ("self_attn_layer_norm", "final_layer_norm"),  # OPT
    )
    for pair in known:
        if all(hasattr(block, name) for name in pair):
            return pair
    raise LookupError(f"a {type(block).__name__} has no norms of known names")

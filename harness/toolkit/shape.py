"""The sizes of a language model, from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.text import json_reader

# Families whose MLP has two matrices; in the others a third one gates the first.
_TWO_MATRICES = frozenset(
    {
        "apertus", "arcee", "biogpt", "bloom", "codegen", "falcon", "gpt2",
        "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "nemotron", "opt",
        "persimmon", "phi", "starcoder2", "xglm",
    }
)  # fmt: skip
# Families with a learnt vector for each position.
_POSITIONS = frozenset({"biogpt", "gpt2", "gpt_bigcode", "gpt_neo", "opt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of a decoder whose blocks are equal.

    Args:
        width: Channels of the hidden states.
        inner: Neurons of the MLP.
        blocks: Number of blocks.
        queries: Channels of all query heads together.
        keys: Channels of all key heads together; the values have as many.
        vocabulary: Number of tokens.
        gated: Whether the MLP has three matrices (LLaMA) or two (OPT).
        tied: Whether the head is the embedding.
        positions: Learnt position vectors; 0 for rotary embeddings.
    """

    width: int
    inner: int
    blocks: int
    queries: int
    keys: int
    vocabulary: int
    gated: bool = True
    tied: bool = False
    positions: int = 0

    @property
    def block(self) -> int:
        """Elements of the matrices of one block; biases and norms are not counted."""
        attention = 2 * self.width * (self.queries + self.keys)
        return attention + (2 + self.gated) * self.width * self.inner

    @property
    def params(self) -> int:
        """Parameters, within 0.1 %: without biases and norms.

        >>> llama_7b = Shape(width=4096, inner=11008, blocks=32, queries=4096,
        ...                  keys=4096, vocabulary=32000)
        >>> llama_7b.params, 6_738_415_616  # and as its files hold
        (6738149376, 6738415616)
        """
        rows = self.vocabulary * (1 if self.tied else 2) + self.positions
        return rows * self.width + self.blocks * self.block


def from_config(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a ``config.json`` of transformers describes.

    Args:
        config: Its content.

    Returns:
        The shape; None if a size is missing, or if blocks hold several experts.
    """

    def size(*names: str) -> int | None:
        found = [config[n] for n in names if isinstance(config.get(n), int)]
        return int(found[0]) if found else None

    if size("num_experts", "num_local_experts", "n_routed_experts"):
        return None
    family = str(config.get("model_type"))
    width = size("hidden_size", "n_embd", "d_model")
    blocks = size("num_hidden_layers", "n_layer", "n_layers")
    heads = size("num_attention_heads", "n_head", "n_heads")
    vocabulary = size("vocab_size")
    if not (width and blocks and heads and vocabulary):
        return None
    channels = size("head_dim") or width // heads
    return Shape(
        width=width,
        inner=size("intermediate_size", "ffn_dim", "n_inner") or 4 * width,
        blocks=blocks,
        queries=heads * channels,
        keys=(size("num_key_value_heads") or heads) * channels,
        vocabulary=vocabulary,
        gated=family not in _TWO_MATRICES,
        tied=bool(config.get("tie_word_embeddings", family in _POSITIONS)),
        positions=(size("max_position_embeddings", "n_positions") or 0)
        if family in _POSITIONS
        else 0,
    )


def from_file(path: Path) -> Shape | None:
    """The shape that a file ``config.json`` describes.

    Args:
        path: The file.

    Returns:
        As ``from_config``; None also if it cannot be read, which loading explains.
    """
    try:
        config = json_reader.read(path.read_bytes())
    except (OSError, ValueError):
        return None
    return from_config(config) if isinstance(config, dict) else None

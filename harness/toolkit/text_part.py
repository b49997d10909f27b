"""The text part of a network of transformers: its vocabulary and its longest window.

A multimodal network keeps both in a nested configuration.
"""

from __future__ import annotations

from typing import Any

from torch import nn

# How configurations call the longest window; networks without any read all lengths.
_LONGEST = ("max_position_embeddings", "n_positions", "max_seq_len", "context_length")


def vocabulary(net: nn.Module) -> int:
    """The number of token ids that the embedding has rows for.

    Args:
        net: A language model of transformers.

    Returns:
        Rows of the embedding, or what the configuration says where there is none.
    """
    reader: Any = net
    try:
        weight = reader.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return int(reader.config.get_text_config().vocab_size)
    return int(weight.shape[0])


def longest_window(net: nn.Module) -> int | None:
    """The most tokens that the network reads at once; None if there is no limit."""
    reader: Any = net
    text = reader.config.get_text_config()
    return next((n for k in _LONGEST if (n := getattr(text, k, None))), None)

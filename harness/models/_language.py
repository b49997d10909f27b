"""What every causal language model shares: encoding, examples, skeletons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import BenchError, Model
from harness.toolkit.roles import LANGUAGE_MODEL
from harness.toolkit.tensor_files import own_memory
from harness.toolkit.untrusted import refuse_bomb

EXAMPLE_TOKENS = 128  # multiply-adds are counted over one window of this length
GIVES = ("linears", "calibration")


def wrap(name: str, net: nn.Module, tokenizer: Any) -> Model:
    """A causal language model of transformers as a ``Model``.

    Args:
        name: As the grid names it.
        net: The network; its embeddings and head stay as they are.
        tokenizer: Of transformers; None for a network without text.

    Returns:
        The model, its network in eval mode.

    Raises:
        BenchError: If it is an encoder, no module of it has a known role, or its
            tokenizer is a bomb.
    """
    refuse_bomb(tokenizer, name)
    config: Any = net.config
    if _encoder(config):
        raise BenchError(
            f"model {name!r} ({config.model_type}) is an encoder: it fills gaps and "
            "predicts no next word. Take a causal one (LLaMA, OPT, GPT-2 ...)"
        )
    longest = getattr(config, "max_position_embeddings", None)
    length = min(EXAMPLE_TOKENS, longest or EXAMPLE_TOKENS)
    vocabulary = int(config.vocab_size)

    def example() -> dict[str, Any]:
        ids = torch.arange(length).remainder(vocabulary).unsqueeze(0)  # (1, T)
        return {"input_ids": ids, "use_cache": False}

    def encode(text: str) -> Tensor:
        # The tokenizer's own rule on special tokens: one BOS for LLaMA, none for GPT-2.
        ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids
        return torch.as_tensor(ids[0])

    model = Model(
        name=name,
        net=own_memory(net).eval(),
        kind="causal_lm",
        roles=LANGUAGE_MODEL,
        example=example,
        encode=encode if tokenizer is not None else None,
        tokenizer=tokenizer,
        max_length=longest,
    )
    if next(model.modules(), None) is None:
        raise BenchError(
            f"model {name!r} ({config.model_type}) has no matrix whose role is known; "
            "add its names to harness/toolkit/roles.py. Known: LLaMA, Mistral, Qwen, "
            "OPT, GPT-2 and Phi-3 names"
        )
    return model


def _encoder(config: Any) -> bool:
    """Whether a network reads both ways; transformers only warns, and scores it."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED,
    )

    return config.model_type in MASKED and not getattr(config, "is_decoder", True)


def without_bars() -> None:
    """Keep the loading bars of transformers out of a run's live view."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def save_skeleton(model: Model, folder: Path) -> None:
    """Write the configuration and the tokenizer beside saved weights."""
    config: Any = model.net.config
    config.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def skeleton(name: str, folder: Path) -> Model:
    """The network that ``save_skeleton`` described, with no weights worth reading."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(folder)
    with no_init_weights():
        net = AutoModelForCausalLM.from_config(config)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer else None
    return wrap(name, net, tokenizer)

"""Tiny language models of every family, with random weights, built offline."""

from pathlib import Path

import torch
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.opt import OPTConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3_moe import Qwen3MoeConfig

from harness.contracts.samples import EXPERTS, LLAMA, byte_model, calibrated
from harness.core import Context

_OPT = {
    "vocab_size": 256,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "ffn_dim": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
_GPT2 = {
    "vocab_size": 256,
    "n_positions": 64,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 4,
    "bos_token_id": None,
    "eos_token_id": None,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**LLAMA),
    "qwen2": lambda: Qwen2Config(**LLAMA),
    "opt": lambda: OPTConfig(**_OPT),
    "gpt2": lambda: GPT2Config(**_GPT2),
}
FAMILIES = tuple(CONFIGS)
MIXTURES = {"qwen3_moe": lambda: Qwen3MoeConfig(**EXPERTS)}


def config(family, **changes):
    made = (CONFIGS | MIXTURES)[family]()
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def tiny(family, seed=0, dtype=torch.float32, **changes):
    """A model whose tokens are the bytes of the text, with biases that are not zero."""
    return byte_model(f"tiny-{family}", config(family, **changes), seed, dtype)


def context(model, folder: Path | None = None, **spec):
    """A context with calibration statistics, on bytes of the Python manual."""
    if folder is None:
        return Context(model=model, seed=0, device=torch.device("cpu"))
    return calibrated(model, folder, **spec)


def logits(net, length=16):
    ids = torch.arange(length).mul(7).remainder(256)[None]
    ids = ids.to(next(net.parameters()).device)
    with torch.inference_mode():
        return net(input_ids=ids, use_cache=False).logits


def recorded(model, tokens, name, outputs=False):
    """The inputs or outputs of a matrix of the dense model, one row a token."""
    seen = []
    handle = model.net.get_submodule(name).register_forward_hook(
        lambda _, args, out: seen.append((out if outputs else args[0]).flatten(0, -2))
    )
    with torch.no_grad():
        model.net(input_ids=tokens, use_cache=False)
    handle.remove()
    return torch.cat(seen).double()

"""Tiny language models of every family, with random weights, built offline."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.models.gpt2 import GPT2Config
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.opt import OPTConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3_moe import Qwen3MoeConfig

from harness.core import Context
from harness.models import _language
from harness.toolkit import calibration, devices

_LLAMA = {
    "vocab_size": 256,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
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
    "llama": lambda: LlamaConfig(**_LLAMA, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**_LLAMA),
    "qwen2": lambda: Qwen2Config(**_LLAMA),
    "opt": lambda: OPTConfig(**_OPT),
    "gpt2": lambda: GPT2Config(**_GPT2),
}
FAMILIES = tuple(CONFIGS)
MIXTURES = {  # of four experts in each block
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_LLAMA,
        head_dim=6,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
    ),
}


def config(family, **changes):
    made = (CONFIGS | MIXTURES)[family]()
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def tiny(family, seed=0, dtype=torch.float32, **changes):
    """A model whose tokens are the bytes of the text, with biases that are not zero."""
    torch.manual_seed(seed)
    net = AutoModelForCausalLM.from_config(config(family, **changes))
    for name, value in net.named_parameters():
        if name.endswith("bias") or value.ndim >= 2:
            torch.nn.init.normal_(value, std=0.2)
    net.config.dtype = dtype
    devices.cast(net, dtype)
    model = _language.wrap(f"tiny-{family}", net, tokenizer=None)
    fields = {f: getattr(model, f) for f in model.__slots__}
    fields["encode"] = lambda text: torch.tensor(list(text.encode()))
    return type(model)(**fields)


def context(model, folder: Path | None = None, **spec):
    """A context with calibration statistics, on bytes of the Python manual."""
    if folder is None:
        return Context(model=model, seed=0, device=torch.device("cpu"))
    options = {"samples": 12, "length": 32, **spec}
    where = folder / "calibration"
    calibration.build(model, calibration.CalibrationSpec(**options), where)
    return Context(
        model=model,
        seed=0,
        device=torch.device("cpu"),
        calibrate=lambda: calibration.open(where),
    )


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

"""Tiny configurations of every family of causal language models in transformers."""

import inspect

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from harness.core import Model
from harness.models import _language

VOCABULARY = 128
_GROUPS = {"n_group": 1, "topk_group": 1, "n_shared_experts": 1,
           "first_k_dense_replace": 1}  # fmt: skip
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "head_dim": 4,
           "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4,
           **_GROUPS}  # fmt: skip
# Families of causal language models, with the configuration keys that the common sizes
# below do not cover. Each of them builds with the installed transformers.
FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "phi": {},
    "phi3": {},
    "opt": {"ffn_dim": 40},
    "gpt2": {},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "gpt_bigcode": {},
    "codegen": {"rotary_dim": 4},
    "bloom": {},
    "falcon": {},
    "stablelm": {},
    "starcoder2": {},
    "olmo": {},
    "olmo2": {},
    "cohere": {},
    "granite": {},
    "glm4": {},
    "smollm3": {},
    "ernie4_5": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4},
    "qwen3_moe": {"num_experts": 4},
    "olmoe": {"num_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "phimoe": {"num_local_experts": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "mpt": {},
    "persimmon": {},
    "nemotron": {},
    "mamba": {},
    "exaone4": {},
    "helium": {},
    "biogpt": {},
    "xglm": {"ffn_dim": 40},
    "gpt_oss": {"num_local_experts": 4},
    "arcee": {},
    "seed_oss": {},
    "hunyuan_v1_dense": {},
    "apertus": {},
    "lfm2": {},
    "deepseek_v2": {**_LATENT, "n_routed_experts": 4, "topk_method": "greedy"},
    "deepseek_v3": {**_LATENT, "n_routed_experts": 4},
    "glm4_moe": {"n_routed_experts": 4, **_GROUPS},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2},
    "aria_text": {"moe_num_experts": 4},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 40},
    "minimax": {"num_local_experts": 4},
    "qwen3_5_moe_text": {"num_experts": 4},
    "qwen3_next": {"num_experts": 4},
}
# What stands in their blocks is a mixture of four experts.
MIXTURES = [
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe", "gpt_oss",
    "deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "aria_text",
    "llama4_text", "minimax", "qwen3_5_moe_text", "qwen3_next",
]  # fmt: skip
COMMON = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 40, "moe_intermediate_size": 24, "head_dim": 8, "n_inner": 40,
    "shared_expert_intermediate_size": 24, "num_hidden_layers": 2, "n_layer": 2,
    "n_layers": 2, "num_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "attention_heads": 4, "num_key_value_heads": 2, "num_kv_heads": 2,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64,
    "num_experts_per_tok": 2, "sliding_window": 16, "state_size": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "global_head_dim": 8,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
}  # fmt: skip


def configuration(family, changes):
    """The family's configuration with every size that it knows made tiny."""
    cls = CONFIG_MAPPING[family]
    known = set(inspect.signature(cls.__init__).parameters)
    known |= set(getattr(cls, "__annotations__", ())) | set(cls.attribute_map)
    return cls(**{k: v for k, v in COMMON.items() if k in known} | changes)


def tiny(family, seed=0, **changes):
    """A model with random weights that are far from those of a uniform guess."""
    torch.manual_seed(seed)
    made = configuration(family, FAMILIES.get(family, {}) | changes)
    net = AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim >= 2:
                weight.mul_(4)
            elif not weight.any():  # a bias
                weight.normal_(std=0.1)
    return _language.wrap(f"tiny-{family}", net, tokenizer=None)


def with_letters(model):
    """The model with an encoder of one token a byte, for calibration."""
    fields = {name: getattr(model, name) for name in Model.__slots__}
    fields["encode"] = lambda text: torch.tensor(list(text.encode())).remainder(
        VOCABULARY
    )
    return Model(**fields)

"""The role of each module of a language model, by its name alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The towers of a multimodal network that reads images or sound have blocks of the same
# names; a text never runs through them.
TOWER = r"(?:.*[._])?(?:vision|visual|image|audio|speech)[\w]*\."
# One table for the families, since their names never collide: what stands behind the
# number of a block. A new family adds its words to a line.
_ATTENTION = r"(?:self_attn|attn(?:\.attention)?|attention|self_attention)\."
# An expert of a mixture is an MLP, and so is one that all tokens run through. The
# router, one vector an expert, has no role and stays dense.
_EXPERT = r"(?:experts\.\d+|shared_experts?|shared_mlp)\."
_MLP = (
    rf"(?:(?:mlp|ffn|feed_forward|block_sparse_moe|mixer)\.(?:{_EXPERT})?|shared_mlp\.)"
)
_NAMES: Mapping[str, str] = {
    _ATTENTION + r"q_proj": "query",
    _ATTENTION + r"k_proj": "key",
    _ATTENTION + r"v_proj": "value",
    # In one matrix; Falcon, GPT-NeoX and BLOOM order its rows by head, not by part.
    _ATTENTION + r"(?:qkv_proj|query_key_value|c_attn|Wqkv)": "qkv",
    _ATTENTION + r"(?:o_proj|out_proj|c_proj|dense)": "output",
    # A gate on the outputs of the heads, and the latent attention of DeepSeek: into
    # few channels, and from them to the heads.
    _ATTENTION + r"(?:gate_proj|g_proj|q_gate_proj)": "attention_gate",
    _ATTENTION + r"(?:q_a_proj|kv_a_proj_with_mqa|kv_a_proj)": "latent_in",
    _ATTENTION + r"(?:q_b_proj|kv_b_proj)": "latent_out",
    _MLP + r"(?:gate_proj|w1)": "gate",
    _MLP + r"(?:up_proj|gate_up_proj|w3|fc1|fc_in|c_fc|dense_h_to_4h)": "up",
    _MLP + r"(?:down_proj|w2|fc2|fc_out|c_proj|dense_4h_to_h)": "down",
    r"shared_mlp\.input_linear": "up",
    r"shared_mlp\.output_linear": "down",
    r"fc1": "up",
    r"fc2": "down",
    # What stands in place of attention: the gated convolution of LFM2, the linear
    # attention of Qwen3.5. Its matrices with one output a head (in_proj_a, in_proj_b)
    # have nothing to factorise and stay dense.
    r"conv\.in_proj|linear_attn\.in_proj_(?:qkv|qkvz)": "mixer_in",
    r"linear_attn\.in_proj_z": "mixer_gate",
    r"(?:conv|linear_attn)\.out_proj": "mixer_out",
}
_BLOCK = r"(?:.*\.)?(?:layers|h|blocks)\.\d+\."
LANGUAGE_MODEL: Mapping[str, str] = {
    f"(?!{TOWER}){_BLOCK}(?:{name})": role for name, role in _NAMES.items()
}
# Roles of matrices that y = W x + b describes; `linear` is a classifier's.
LINEARS = (
    "query",
    "key",
    "value",
    "qkv",
    "output",
    "attention_gate",
    "latent_in",
    "latent_out",
    "gate",
    "up",
    "down",
    "mixer_in",
    "mixer_gate",
    "mixer_out",
    "linear",
)

# What a structured method needs of each block: one matrix of each of these roles.
ONE_EACH: Mapping[str, tuple[str, ...]] = {
    "units": ("query", "key", "value", "output", "up", "down"),
    "width": ("output", "down"),
}


def block_of(name: str) -> int | None:
    """The number of the block that a module belongs to; None outside of blocks.

    >>> block_of("model.layers.12.self_attn.q_proj")
    12
    """
    found = re.search(r"\.(\d+)\.", f".{name}.")
    return int(found[1]) if found else None


def expert_of(name: str) -> str | None:
    """The expert of a block that a matrix belongs to; None outside of a mixture.

    >>> expert_of("model.layers.12.mlp.experts.3.up_proj")
    '3'
    >>> expert_of("model.layers.12.mlp.shared_experts.up_proj")
    'shared_experts'
    """
    found = re.search(rf"\.{_EXPERT}", f".{name}.")
    return found[0].strip(".").removeprefix("experts.") if found else None


def blocks_path(names: list[str]) -> str | None:
    """The list of blocks that the named modules live in.

    >>> blocks_path(["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"])
    'model.layers'
    """
    paths = {name[: found.start()] for name in names if (found := _NUMBER.search(name))}
    return paths.pop() if len(paths) == 1 else None


_NUMBER = re.compile(r"\.\d+\.")

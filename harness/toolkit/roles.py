"""The role of each module of a language model, by its name alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

# The towers of a multimodal network that reads images or sound have blocks of the same
# names; a text never runs through them.
TOWER = r"(?:.*[._])?(?:vision|visual|image|audio|speech)[\w]*\."
# One table for the families, since their names never collide: LLaMA, Mistral, Qwen
# (q_proj ... down_proj), OPT (out_proj, fc1, fc2), GPT-2 (fused and transposed c_*),
# Phi-3 (fused qkv_proj, gate_up_proj).
_NAMES: Mapping[str, str] = {
    r"(?:.*\.)?layers\.\d+\.self_attn\.q_proj": "query",
    r"(?:.*\.)?layers\.\d+\.self_attn\.k_proj": "key",
    r"(?:.*\.)?layers\.\d+\.self_attn\.v_proj": "value",
    r"(?:.*\.)?layers\.\d+\.self_attn\.qkv_proj": "qkv",
    r"(?:.*\.)?layers\.\d+\.self_attn\.(?:o|out)_proj": "output",
    r"(?:.*\.)?layers\.\d+\.mlp\.gate_proj": "gate",
    r"(?:.*\.)?layers\.\d+\.mlp\.(?:up|gate_up)_proj": "up",
    r"(?:.*\.)?layers\.\d+\.mlp\.down_proj": "down",
    r"(?:.*\.)?layers\.\d+\.fc1": "up",
    r"(?:.*\.)?layers\.\d+\.fc2": "down",
    r"(?:.*\.)?h\.\d+\.attn\.c_attn": "qkv",
    r"(?:.*\.)?h\.\d+\.attn\.c_proj": "output",
    r"(?:.*\.)?h\.\d+\.mlp\.c_fc": "up",
    r"(?:.*\.)?h\.\d+\.mlp\.c_proj": "down",
}
LANGUAGE_MODEL: Mapping[str, str] = {
    f"(?!{TOWER}){name}": role for name, role in _NAMES.items()
}
# Roles of matrices that y = W x + b describes; `linear` is a classifier's.
LINEARS = (
    "query",
    "key",
    "value",
    "qkv",
    "output",
    "gate",
    "up",
    "down",
    "linear",
)


def block_of(name: str) -> int | None:
    """The number of the block that a module belongs to; None outside of blocks.

    >>> block_of("model.layers.12.self_attn.q_proj")
    12
    """
    found = re.search(r"\.(\d+)\.", f".{name}.")
    return int(found[1]) if found else None


def blocks_path(names: list[str]) -> str | None:
    """The list of blocks that the named modules live in.

    >>> blocks_path(["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"])
    'model.layers'
    """
    paths = {name[: found.start()] for name in names if (found := _NUMBER.search(name))}
    return paths.pop() if len(paths) == 1 else None


_NUMBER = re.compile(r"\.\d+\.")

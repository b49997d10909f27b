"""Networks as plain checkpoints of their architecture, also with fewer blocks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Model
from harness.toolkit import experts
from harness.toolkit.roles import blocks_path


def configuration(net: Any) -> Any:
    """A configuration that names the architecture and no quantised source file."""
    config = copy.deepcopy(net.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(net).__name__]
    config.dtype = next(net.parameters()).dtype
    return config


def has_its_shapes(net: Any) -> bool:
    """Whether a fresh network of the configuration has the same tensors."""
    here, there = net.state_dict(), without_memory(net).state_dict()
    return here.keys() == there.keys() and all(
        here[name].shape == there[name].shape for name in here
    )


def without_memory(net: Any) -> nn.Module:
    """A fresh network of the configuration that has shapes and no values."""
    with torch.device("meta"):
        return experts.split(type(net)(configuration(net)))


def write(net: Any, folder: Path) -> None:
    """Write a network whose shapes are those of its configuration."""
    fresh = _fresh(net, experts.fused_state(net), configuration(net))
    fresh.save_pretrained(folder)


def _fresh(net: Any, state: dict[str, Tensor], config: Any) -> Any:
    """A network of the original architecture with these tensors, on the CPU."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        fresh = type(net)(config).to(config.dtype)
    fresh.load_state_dict(state)
    if _is_tied(net):
        # Without initial weights nothing was tied, and the file would have the matrix
        # twice.
        fresh.tie_weights()
    else:
        fresh.config.tie_word_embeddings = False
    fresh.generation_config = copy.deepcopy(net.generation_config)
    return fresh.eval()


def _is_tied(net: Any) -> bool:
    """Whether the head is the matrix of the embedding; a method may part them."""
    head, embedding = net.get_output_embeddings(), net.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def write_without(model: Model, dropped: list[str], folder: Path) -> bool:
    """Write a checkpoint whose configuration has the blocks that are left.

    Args:
        model: The network with some blocks dropped.
        dropped: Module paths of these blocks.
        folder: An empty folder, which gets what ``save_pretrained`` writes.

    Returns:
        False, with nothing written, where the architecture computes something else
        with the same blocks: DiffLlama's depend on their number in the list.
    """
    net: Any = model.net
    path = blocks_path([*dropped, *(name for name, _ in model.modules())])
    if path is None:
        return False
    total = len(net.get_submodule(path))
    left = [n for n in range(total) if f"{path}.{n}" not in dropped]
    # Blocks are counted from 0 without gaps: "4.attn.weight" becomes "3.attn.weight".
    number = {str(old): str(new) for new, old in enumerate(left)}
    state = {}
    for name, value in experts.fused_state(net).items():
        if name.startswith(f"{path}."):
            old, rest = name[len(path) + 1 :].split(".", 1)
            state[f"{path}.{number[old]}.{rest}"] = value
        else:
            state[name] = value
    try:
        config = configuration(net)
        _shorten(config.get_text_config(), total, left)
        # As it is read from a file: some compute lists of blocks again (GPT-Neo).
        config = type(config).from_dict(config.to_dict())
        made = _fresh(net, state, config)
    except (RuntimeError, ValueError, TypeError):  # another shape, or no such network
        return False
    if not agree(model, made):
        return False
    made.save_pretrained(folder)
    return True


def _shorten(config: Any, total: int, left: list[int]) -> None:
    """Set the number of blocks, and every list with an entry for each of them.

    Such lists say which blocks have a sliding window (``layer_types``) or no rotation
    (``no_rope_layers``).
    """
    for name, value in list(vars(config).items()):
        if "layer" in name and isinstance(value, list) and len(value) == total:
            setattr(config, name, [value[n] for n in left])
    config.num_hidden_layers = len(left)


@torch.no_grad()
def agree(model: Model, made: nn.Module) -> bool:
    """Whether two networks give the same logits for an example, to rounding.

    Args:
        model: The network that was measured.
        made: The other one; it is on the CPU afterwards.

    Returns:
        True if the logits differ by ten units of the last digit of their norm at most.
    """
    device = next(model.net.parameters()).device
    ids = model.example()["input_ids"].to(device)
    here = model.net(input_ids=ids, use_cache=False).logits
    there = made.to(device)(input_ids=ids, use_cache=False).logits
    made.cpu()
    # Another order of the same sums differs by a few units of the last digit; a block
    # that depends on its number differs in the first.
    digits = torch.finfo(here.dtype).eps * here.norm()
    return bool((here - there).norm() <= 10 * digits)

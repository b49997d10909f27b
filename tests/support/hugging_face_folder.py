"""Folders of tiny language models, as users keep them."""

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig

from harness.registry import resolve


def family(name):
    """The model family that a grid would take for a folder or a name."""
    plugin, implied = resolve("model", str(name))
    return plugin.build(implied)


def rebuild(folder, made):
    """Put another network in the place of the folder's, with the same tokenizer."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    return family(folder)


def mixture():
    """The configuration of two blocks with four experts each."""
    return MixtralConfig(
        vocab_size=256, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip


def edit(folder, change, name="model.safetensors"):
    """Replace the tensors of a file by what ``change`` makes of them."""
    tensors = load_file(folder / name)
    save_file(change(tensors), folder / name, metadata={"format": "pt"})


def as_pickle(folder):
    """Store the weights as ``torch.save`` does instead; the path of the file."""
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(dict(state), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"

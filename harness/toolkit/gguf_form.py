"""Language models as GGUF files, which llama.cpp and its descendants run."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core import BenchError, Model
from harness.toolkit import (
    gguf_check,
    gguf_tokenizer,
    hugging_face_form,
)
from harness.toolkit.tensor_files import each_tensor

FILE = "model.gguf"


def check_family(family: str | None) -> None:
    """Refuse a model that no GGUF file can be written of, by its family alone.

    Args:
        family: Its ``model_type``; None if only loading tells.

    Raises:
        BenchError: If the package gguf is missing, or the family is not known here.
    """
    if importlib.util.find_spec("gguf") is None:
        raise BenchError("--format gguf needs the package gguf: `pip install gguf`")
    known = _table()["families"]
    if family is not None and family not in known:
        raise BenchError(
            f"--format gguf knows the families {', '.join(known)}, and this model is "
            f"of the family {family}; take --format hf and the converter of llama.cpp"
        )


def write(
    model: Model, origin: Mapping[str, Any], folder: Path, card: str
) -> float | None:
    """Write a language model as ``model.gguf``, with its tokenizer.

    Matrices keep their dtype, float32, float16 or bfloat16; vectors are float32, as
    llama.cpp asks for. Where llama-cpp-python is installed, it opens the file and
    computes logits of it.

    Args:
        model: A language model of transformers whose layers are those of its
            architecture.
        origin: As for ``hugging_face_form.write``.
        folder: An empty folder, which gets the file and the card.
        card: The model card in Markdown; how to run the file is added to it.

    Returns:
        Norm of the difference between the logits of llama.cpp and those of the network,
        as a share of the latter; None where llama.cpp is not installed.

    Raises:
        BenchError: If the network has layers or a configuration that the file cannot
            express, if the tokenizer is not known, or if llama.cpp computes something
            else. The folder is empty then.
    """
    if model.tokenizer is None:
        raise BenchError(f"{model.name} has no tokenizer, and a GGUF file contains one")
    net: Any = model.net
    check_family(net.config.model_type)
    known = _table()["pre_tokenizers"]
    gguf_tokenizer.pre_tokenizer(model.tokenizer, known)  # refused before any writing
    path = folder / FILE
    with tempfile.TemporaryDirectory(dir=folder) as name:
        plain = Path(name)
        hugging_face_form.write(model, origin, plain, "", plain=True)
        _convert(plain, path, model.tokenizer)
    gap = None
    if gguf_check.can_check():
        try:
            gap = gguf_check.compare(model, path)
        except BenchError:
            path.unlink()
            raise
    (folder / "README.md").write_text(card + _HOW_TO_RUN)
    return gap


def _convert(folder: Path, path: Path, tokenizer: Any) -> None:
    """Write a plain checkpoint as one GGUF file, a tensor at a time."""
    import gguf
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    family = _table()["families"][config.model_type]
    _check(config, family)
    writer = gguf.GGUFWriter(path, family["architecture"])
    _describe(writer, config, folder)
    gguf_tokenizer.add(writer, tokenizer, folder, _table()["pre_tokenizers"])
    # Twice through the checkpoint: the header needs the shapes, and a tensor that is
    # written can be dropped.
    for name, value in _tensors(folder, config, family):
        array, kind = _array(value)
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, value in _tensors(folder, config, family):
        writer.write_tensor_data(_array(value)[0])
    writer.close()


def _check(config: Any, family: Mapping[str, Any]) -> None:
    """Refuse a configuration that llama.cpp would run as another one."""
    for key, allowed in family["requires"].items():
        value = getattr(config, key, None)
        if value is not None and value not in allowed:
            raise BenchError(
                f"the model has {key} {value}, and llama.cpp computes its family with "
                f"{' or '.join(str(one) for one in allowed)}; take --format hf"
            )
    kind = _rotary(config).get("rope_type", "default")
    allowed = ("default", "linear", "llama3") if "rotary_factors" in family else ()
    if kind not in ("default", *allowed):
        raise BenchError(
            f"the model scales its positions by the rule {kind}, which the GGUF file "
            "of its family has no place for here; take --format hf"
        )
    every = family.get("unrotated_every")
    if every is not None:
        wanted = [int((n + 1) % every > 0) for n in range(config.num_hidden_layers)]
        if config.no_rope_layers != wanted:
            raise BenchError(
                f"llama.cpp rotates all positions but those of every {every}th block, "
                f"and the model has no_rope_layers {config.no_rope_layers}; take "
                "--format hf"
            )
    windows = {*(getattr(config, "layer_types", None) or [])} - {"full_attention"}
    if windows and len({*config.layer_types}) > 1:
        raise BenchError(
            "some blocks of the model have a sliding window, which the GGUF file has "
            "no place for here; take --format hf"
        )


def _describe(writer: Any, config: Any, folder: Path) -> None:
    """Add what llama.cpp has to know of the network besides its tensors."""
    said = json.loads((folder / "config.json").read_text())
    width, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or width // heads
    window = getattr(config, "sliding_window", None)
    length = config.max_position_embeddings
    # Up to the width of the window, full attention is the same.
    writer.add_context_length(min(length, window) if window else length)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers)
    inner = getattr(config, "intermediate_size", None) or 4 * width
    writer.add_feed_forward_length(said.get("n_inner") or inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)
    if "rope_theta" in _rotary(config):
        writer.add_rope_freq_base(_rotary(config)["rope_theta"])
        writer.add_rope_dimension_count(head)
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    kinds = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 32}
    writer.add_file_type(kinds[config.dtype])


def _rotary(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _tensors(
    folder: Path, config: Any, family: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint under llama.cpp's names, in its layout."""
    import gguf

    arch = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(
        arch[family["architecture"]], config.num_hidden_layers
    )
    for file in sorted(folder.glob("*.safetensors")):
        for name, stored in each_tensor(file):
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                raise BenchError(
                    f"llama.cpp has no place for the tensor {name} of this family; "
                    "take --format hf"
                )
            yield found, _laid_out(name, stored, config, family)
    if _rotary(config).get("rope_type", "default") != "default":
        yield "rope_freqs.weight", _factors(config)


def _laid_out(
    name: str, value: Tensor, config: Any, family: Mapping[str, Any]
) -> Tensor:
    """A tensor in the order of llama.cpp."""
    if family.get("transposed") and value.ndim == 2 and ".h." in f".{name}":
        return value.T.contiguous()  # GPT-2 stores (in, out)
    if family.get("norms_from_zero") and name.endswith("norm.weight"):
        return value + 1  # Gemma stores the difference from 1
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": getattr(config, "num_key_value_heads", None)
        or config.num_attention_heads,
    }
    part = name.split(".")[-2]
    if family.get("rotates_pairs") and part in heads:
        # transformers rotates channel i with channel i + half, llama.cpp neighbours.
        halves = value.unflatten(0, (heads[part], 2, -1))
        return halves.transpose(1, 2).flatten(0, 2).contiguous()
    return value


def _factors(config: Any) -> Tensor:
    """By what the model divides each frequency of its rotation, by its own code."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rotary = _rotary(config)
    head = getattr(config, "head_dim", None)
    head = head or config.hidden_size // config.num_attention_heads
    scaled, _ = ROPE_INIT_FUNCTIONS[rotary["rope_type"]](config, torch.device("cpu"))
    powers = torch.arange(0, head, 2, dtype=torch.float32) / head
    plain: Tensor = 1.0 / rotary["rope_theta"] ** powers
    return plain / scaled


def _array(value: Tensor) -> tuple[Any, Any]:
    """Numbers as GGUF stores them, and their type where numpy has no name for it."""
    import gguf

    if value.ndim == 1:
        return value.float().numpy(), None
    if value.dtype == torch.bfloat16:  # numpy has bytes alone
        return value.view(torch.uint8).numpy(), gguf.GGMLQuantizationType.BF16
    return value.numpy(), None


@cache
def _table() -> dict[str, Any]:
    path = Path(__file__).with_name("gguf_families.json")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


_HOW_TO_RUN = """
## How to run it

```sh
llama-cli --model model.gguf --prompt "The capital of France is"
```

or from Python, with `pip install llama-cpp-python`:

```python
from llama_cpp import Llama

model = Llama("model.gguf")
print(model("The capital of France is", max_tokens=12)["choices"][0]["text"])
```
"""

"""Small models that the checks compress, built offline in seconds."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from harness.core import Context, Model
from harness.models import _language
from harness.registry import find
from harness.toolkit import calibration, devices
from harness.toolkit.sequences import Pairs, ParallelText, Vocabulary

LLAMA = {
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
# Four experts in each block, of which each token uses two.
EXPERTS = LLAMA | {
    "head_dim": 6,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
# A sample that a method may refuse, if it raises ``Unsupported`` with a reason: experts
# are not alike, so that a block has no one width that could be reduced.
MIXTURE = "causal_lm mixture"
# A first exit must be cheap beside the rest, or leaving early saves nothing.
_CONVNET = {"widths": [8, 16, 32, 64]}
_GRU = {"layers": 2, "units": 12, "recipe": {"epochs": 2, "optimizer": "adam"}}

# What the small size of these models asks of packaged methods: options, because three
# blocks leave no room for the defaults and 20 epochs take minutes, ...
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "chain": {"chain": ["svd", {"name": "round_to_nearest", "bits": 8}]},
    "dobi_svd": {"samples": 2, "epochs": 1},
    "llm_pruner": {"keep_first": 0, "keep_last": 0},
}
# ... and how much farther than declared the achieved ratio may be from the requested
# one: a method that removes whole blocks has three to choose from.
COARSE: Mapping[str, float] = {"shortgpt": 0.1}


def byte_model(name: str, config: Any, seed: int, dtype: torch.dtype) -> Model:
    """A language model with random weights whose tokens are the bytes of the text.

    Args:
        name: Of the model.
        config: Configuration of transformers.
        seed: Of the weights.
        dtype: Of the weights.

    Returns:
        The model; its biases are not zero, so that a method that forgets them fails.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    net = AutoModelForCausalLM.from_config(config)
    for key, value in net.named_parameters():
        if key.endswith("bias") or value.ndim >= 2:
            torch.nn.init.normal_(value, std=0.2)
    net.config.dtype = dtype
    devices.cast(net, dtype)
    model = _language.wrap(name, net, tokenizer=None)
    fields = {f: getattr(model, f) for f in model.__slots__}
    fields["encode"] = lambda text: torch.tensor(list(text.encode()))
    return Model(**fields)


def calibrated(model: Model, folder: Path, **spec: Any) -> Context:
    """A context whose calibration text is the manual of Python.

    Args:
        model: A language model.
        folder: For the calibration statistics.
        **spec: Fields of ``CalibrationSpec`` other than the usual ones here.

    Returns:
        The context.
    """
    options = {"samples": 12, "length": 32, **spec}
    where = folder / "calibration"
    calibration.build(model, calibration.CalibrationSpec(**options), where)
    return Context(
        model=model,
        seed=0,
        device=torch.device("cpu"),
        calibrate=lambda: calibration.open(where),
    )


def _language_model(dtype: torch.dtype) -> Context:
    from transformers.models.llama import LlamaConfig

    config = LlamaConfig(**LLAMA, tie_word_embeddings=True)
    return calibrated(byte_model("tiny-llama", config, 0, dtype), _folder())


def _mixture() -> Context:
    from transformers.models.qwen3_moe import Qwen3MoeConfig

    model = byte_model("tiny-mixture", Qwen3MoeConfig(**EXPERTS), 0, torch.float32)
    return calibrated(model, _folder())


def _classifier(family: str, options: Mapping[str, Any]) -> Context:
    data = find("task", "digits").build({"limit": 200}).data()
    model = find("model", family).build(options).build(data.shape, 0)
    return Context(model=model, seed=0, device=torch.device("cpu"), data=data)


def _translator() -> Context:
    draw = torch.Generator().manual_seed(0)
    words = Vocabulary(words=tuple("abcdefghijkl"))

    def some(count: int) -> Pairs:
        lengths = torch.randint(2, 6, (count,), generator=draw)
        source = [torch.randint(4, 12, (int(n),), generator=draw) for n in lengths]
        return Pairs(source=source, target=[s.flip(0) for s in source])

    data = ParallelText(source=words, target=words, train=some(32), dev=some(8))
    model = find("model", "gru_seq2seq").build(_GRU).build(data.shape, 0)
    return Context(model=model, seed=0, device=torch.device("cpu"), data=data)


def _folder() -> Path:
    """A temporary folder that is deleted when the process ends."""
    path = tempfile.mkdtemp(prefix="shrinkgrid-check-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


_CONTEXTS: Mapping[str, Callable[[], Context]] = {
    "causal_lm": partial(_language_model, torch.float32),
    "causal_lm bfloat16": partial(_language_model, torch.bfloat16),
    "causal_lm float16": partial(_language_model, torch.float16),
    MIXTURE: _mixture,
    "convnet": partial(_classifier, "digits_convnet", _CONVNET),
    "mlp": partial(_classifier, "mlp", {}),
    "seq2seq": _translator,
}
_FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "convnet": ("digits_convnet", _CONVNET),
    "mlp": ("mlp", {}),
    "seq2seq": ("gru_seq2seq", _GRU),
}


@cache
def context(sample: str) -> Context:
    """The context of a sample; the checks see to it that no method changes it.

    Args:
        sample: One of the names that ``samples_for`` returns.

    Returns:
        The same context for each caller in a process.
    """
    with torch.random.fork_rng(devices=[]):
        return _CONTEXTS[sample]()


def samples_for(declared: Mapping[str, Any]) -> list[str]:
    """The samples that a method must treat, by what it declares.

    Args:
        declared: Facts of a method, with ``kinds`` and ``needs``.

    Returns:
        Names; a language model comes in three dtypes, and as a mixture of experts.
    """
    classifier = "mlp" if "linears" in declared["needs"] else "convnet"
    wanted = [
        classifier if kind == "classifier" else kind
        for kind in sorted(declared["kinds"])
    ]
    return [name for kind in wanted for name in _CONTEXTS if name.split()[0] == kind]


def origin(sample: str, folder: Path) -> dict[str, Any]:
    """What a saved network of this sample is built from again.

    Args:
        sample: Name of the sample.
        folder: For the configuration of a language model.

    Returns:
        As ``saved_model.save`` takes it.
    """
    ctx = context(sample)
    if sample not in _FAMILIES:
        net: Any = ctx.model.net
        net.config.save_pretrained(folder)
        return {"model": str(folder), "options": {}, "revision": "", "shape": None}
    family, options = _FAMILIES[sample]
    shape = ctx.data.shape
    return {"model": family, "options": options, "revision": "", "shape": shape}

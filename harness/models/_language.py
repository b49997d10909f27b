"""What every causal language model shares: encoding, examples, skeletons, coverage."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import BenchError, Model
from harness.toolkit import (
    experts,
    identity,
    model_size,
    roles,
    text_part,
    tokenizer_needs,
)
from harness.toolkit.roles import ONE_EACH
from harness.toolkit.untrusted import BROKEN, refuse_bomb

EXAMPLE_TOKENS = 128  # multiply-adds are counted over one window of this length
GIVES = ("linears", "calibration", *ONE_EACH)
STRUCTURE = "structure.json"  # beside the weights of a network that was saved here
LEAST_COVERAGE = 0.95  # of the block weights; a method refuses a model below it


def wrap(name: str, net: nn.Module, tokenizer: Any) -> Model:
    """A causal language model of transformers as a ``Model``.

    Args:
        name: As the grid names it.
        net: The network; its embeddings and head stay as they are. The experts of a
            mixture become linear layers of their own, in place, unless it is on
            torch's meta device: no method runs there, and it may have thousands.
        tokenizer: Of transformers; None for a network without text.

    Returns:
        The model, its network in eval mode. Its modules may have no role at all.

    Raises:
        BenchError: If it is an encoder, or its tokenizer is a bomb or larger than the
            embedding.
    """
    refuse_bomb(tokenizer, name)
    config: Any = net.config
    if not next(net.parameters()).is_meta:
        experts.split(net)
    if _encoder(config):
        raise BenchError(
            f"model {name!r} ({config.model_type}) is an encoder: it fills gaps and "
            "does not predict the next word. Take a causal one (LLaMA, OPT, GPT-2 ...)"
        )
    longest = text_part.longest_window(net)
    length = min(EXAMPLE_TOKENS, longest or EXAMPLE_TOKENS)
    vocabulary = text_part.vocabulary(net)
    _refuse_larger(name, tokenizer, vocabulary)
    extra = {"use_cache": False} if _takes(net, "use_cache") else {}

    def example() -> dict[str, Any]:
        ids = torch.arange(length).remainder(vocabulary).unsqueeze(0)  # (1, T)
        return {"input_ids": ids, **extra}

    def encode(text: str) -> Tensor:
        # The tokenizer's own rule on special tokens: one BOS for LLaMA, none for GPT-2.
        ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids
        return torch.as_tensor(ids[0])

    return Model(
        name=name,
        net=net.eval(),
        kind="causal_lm",
        roles=roles.LANGUAGE_MODEL,
        example=example,
        encode=encode if tokenizer is not None else None,
        tokenizer=tokenizer,
        max_length=longest,
    )


def _refuse_larger(name: str, tokenizer: Any, vocabulary: int) -> None:
    """Refuse ids without a row: an error on a CPU, a dead worker on a GPU."""
    if tokenizer is None:
        return
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= vocabulary:
        raise BenchError(
            f"the tokenizer of {name!r} has token ids up to {last}, and the embedding "
            f"of the network has {vocabulary} rows: use the tokenizer that belongs to "
            "these weights, or resize the embedding (`resize_token_embeddings`)"
        )


def _takes(net: nn.Module, name: str) -> bool:
    """Whether the forward pass of a network has an argument of this name."""
    given = inspect.signature(net.forward).parameters
    return name in given or any(p.kind is p.VAR_KEYWORD for p in given.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What methods that read roles need to know of a model.

    Args:
        family: The ``model_type`` of its configuration.
        coverage: The share of the block weights that have a role, in [0, 1].
        single: Roles of which each block has exactly one matrix.
    """

    family: str
    coverage: float
    single: tuple[str, ...]


def look(model: Model) -> Seen:
    """Look at the roles of a network, which may be on torch's meta device."""
    return Seen(
        family=str(getattr(model.net.config, "model_type", "unknown")),
        coverage=model_size.coverage(model) or 0.0,
        single=tuple(sorted(model_size.single_roles(model))),
    )


def refusal(
    name: str, partial: str, seen: Seen, method: Mapping[str, Any]
) -> str | None:
    """Why a method that reads roles does not treat a model, or None if it does.

    Args:
        name: Of the model, for the message.
        partial: ``allow`` or ``refuse``, as the grid says.
        seen: What the model has.
        method: What the method declares.

    Returns:
        One sentence, or None.
    """
    if seen.coverage == 0:
        return (
            f"model {name!r} ({seen.family}) has no matrix whose role is known "
            "(`shrinkgrid list families` says what methods treat); `dense` needs no "
            "roles"
        )
    if seen.coverage < LEAST_COVERAGE and partial != "allow":
        return (
            f"only {seen.coverage:.1%} of the block weights of model {name!r} "
            f"({seen.family}) have a known role, and methods ask for "
            f"{LEAST_COVERAGE:.0%}: the rest would stay dense. Write `partial: allow` "
            "on the model's line to treat that part"
        )
    wanted = [role for n in sorted(method["needs"]) for role in ONE_EACH.get(n, ())]
    if lacking := [role for role in wanted if role not in seen.single]:
        return (
            f"model {name!r} ({seen.family}) does not have one matrix of role "
            f"{lacking[0]} in each block, which a method that removes heads, neurons "
            "or hidden channels needs: take a dense model of the LLaMA, Mistral or "
            "Qwen family, or a low-rank, sparse or quantised method"
        )
    return None


def refuses_task(name: str, folder: Path | None, task: Any) -> str | None:
    """Why a task cannot be asked with a tokenizer that is not loaded.

    Args:
        name: Of the model, for the message.
        folder: With the tokenizer's files; None if they are not on this machine.
        task: The configured task.

    Returns:
        One sentence; None if it can be asked, or if only loading can tell.
    """
    has = tokenizer_needs.of_folder(folder) if folder else None
    return tokenizer_needs.refusal(name, has, task) if has else None


def configured(folder: Path, *, trust_remote_code: bool) -> Seen | None:
    """What a model that is not loaded has, remembered by its configuration.

    Args:
        folder: With ``config.json``.
        trust_remote_code: Whether code beside it may build the network.

    Returns:
        As ``look``; None if the network cannot be built from its configuration alone.
    """
    sources = [roles.__file__, experts.__file__, model_size.__file__, __file__]
    named = {"config": folder / "config.json"}
    named |= {f"source {n}": Path(path) for n, path in enumerate(sources)}
    release = version("transformers")
    key = identity.of_files(named).removeprefix("sha256:")
    kept = identity.cache_folder() / "coverage" / f"{key}-{release}.json"
    try:
        found = json.loads(kept.read_bytes())
        return Seen(**{**found, "single": tuple(found["single"])})
    except (OSError, ValueError, LookupError, TypeError):
        pass
    try:
        seen = _built(folder, trust_remote_code=trust_remote_code)
    except (*BROKEN, BenchError, ImportError):  # loading says what is wrong
        return None
    identity.keep(kept, json.dumps(asdict(seen)))
    return seen


def _built(folder: Path, *, trust_remote_code: bool) -> Seen:
    """Build a network on torch's meta device, which holds no weights, and look."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code
        )
    return look(wrap(str(folder), net, tokenizer=None))


def saved(name: str, folder: Path) -> Model:
    """A network that ``shrinkgrid save-model`` wrote, under the name of its folder."""
    from harness.toolkit import saved_model

    return replace(saved_model.load(folder), name=name)


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


@contextmanager
def reports() -> Iterator[list[str]]:
    """Collect the tables in which transformers lists what does not fit.

    Yields:
        The lines about tensors that could not be converted; nothing is printed.
    """
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        found = record.getMessage().splitlines()
        lines.extend(line for line in found if "CONVERSION" in line and "|" in line)
        return False

    loader = logging.getLogger("transformers.modeling_utils")
    loader.addFilter(keep)
    try:
        yield lines
    finally:
        loader.removeFilter(keep)


def save_skeleton(model: Model, folder: Path) -> None:
    """Write the configurations and the tokenizer beside saved weights."""
    net: Any = model.net
    net.config.save_pretrained(folder)
    net.generation_config.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def skeleton(name: str, folder: Path) -> Model:
    """The network that ``save_skeleton`` described, with no weights worth reading."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
    )
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(folder)
    with no_init_weights():
        net = AutoModelForCausalLM.from_config(config)
    if (folder / "generation_config.json").is_file():
        net.generation_config = GenerationConfig.from_pretrained(folder)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer else None
    return wrap(name, net, tokenizer)

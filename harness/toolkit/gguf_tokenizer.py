"""The tokenizer of a model in the terms of GGUF files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core import BenchError


def add(writer: Any, tokenizer: Any, folder: Path, known: Sequence[Any]) -> None:
    """Add tokens, merges, special tokens and chat template to a GGUF file.

    Args:
        writer: A ``gguf.GGUFWriter``.
        tokenizer: A fast tokenizer of transformers; see ``pre_tokenizer``.
        folder: Where ``save_pretrained`` wrote it, beside the model's configuration.
        known: As in ``pre_tokenizer``.
    """
    import gguf

    size: int = json.loads((folder / "config.json").read_text())["vocab_size"]
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = []
    for number in range(size):
        if number not in words:  # the embedding has more rows than there are tokens
            kinds.append(gguf.TokenType.UNUSED)
        elif number not in added:
            kinds.append(gguf.TokenType.NORMAL)
        elif added[number].special:
            kinds.append(gguf.TokenType.CONTROL)
        else:
            kinds.append(gguf.TokenType.USER_DEFINED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer, known))
    writer.add_token_list([words.get(n, f"[PAD{n}]") for n in range(size)])
    writer.add_token_types(kinds)
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    # What the tokenizer does counts, not what its files say of it.
    ids = tokenizer("a").input_ids
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
    special.add_special_token = {
        "bos": first is not None and ids[0] == first,
        "eos": last is not None and ids[-1] == last,
    }
    special.add_to_gguf(writer, quiet=True)


def pre_tokenizer(tokenizer: Any, known: Sequence[Mapping[str, Any]]) -> str:
    """llama.cpp's name for the way in which a tokenizer cuts a text before its merges.

    Args:
        tokenizer: Of transformers.
        known: For each name of llama.cpp its steps and its rule about merges.

    Returns:
        The name.

    Raises:
        BenchError: If the tokenizer is not one of byte pairs whose steps are known.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    form = json.loads(backend.to_str()) if backend is not None else {}
    model = form.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _unknown("it does not merge pairs of bytes")
    normalizer = form.get("normalizer")
    # A text that is in the composed form already, as nearly all are, stays the same.
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise _unknown(f"it has a normalizer of the type {normalizer.get('type')}")
    steps = _steps(form.get("pre_tokenizer"))
    for one in known:
        if one["steps"] == steps and one["ignore_merges"] == bool(
            model.get("ignore_merges")
        ):
            return str(one["name"])
    names = ", ".join(one["name"] for one in known)
    raise _unknown(f"it cuts texts in another way than {names}")


def _unknown(why: str) -> BenchError:
    return BenchError(
        f"the tokenizer has no counterpart in the GGUF files written here: {why}; take "
        "--format hf and the converter of llama.cpp, which knows more of them"
    )


def _steps(form: Mapping[str, Any] | None) -> list[str]:
    """The steps of a pre-tokenizer, each in words or as its regular expression."""
    if form is None:
        return []
    kind = form.get("type")
    if kind == "Sequence":
        return [step for one in form["pretokenizers"] for step in _steps(one)]
    if kind == "ByteLevel" and not form.get("add_prefix_space"):
        return ["words, bytes" if form.get("use_regex", True) else "bytes"]
    if kind == "Digits" and form.get("individual_digits"):
        return ["digits"]
    pattern = form.get("pattern", {}).get("Regex")
    if kind == "Split" and form.get("behavior") == "Isolated" and pattern:
        return ["unknown: inverted"] if form.get("invert") else [str(pattern)]
    return [f"unknown: {kind}"]

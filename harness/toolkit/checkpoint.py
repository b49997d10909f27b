"""The files of a checkpoint: which count, what is wrong with them, what was loaded."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.toolkit.roles import TOWER
from harness.toolkit.untrusted import BROKEN
from results.text import json_reader

# What transformers, torch and safetensors raise where files are damaged or foreign.
UNREADABLE = (*BROKEN, EOFError, ImportError, pickle.UnpicklingError)
_LFS = b"version https://git-lfs"
_LISTED = 5  # tensors that a message names
_MAX_HEADER = 100_000_000  # bytes, the limit of safetensors itself
# What the file with the weights is called, by its kind; safetensors come first.
_MAIN = {"safetensors": "model", "bin": "pytorch_model"}
# Beside the weights: configuration, tokenizer, chat template, code of the model.
_SMALL = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".py")
# Constants that older versions of transformers stored and newer ones compute.
_CONSTANTS = (
    ".rotary_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
    "position_ids",
)
# Towers of a multimodal checkpoint that the text network alone does not have.
_TOWERS = re.compile(rf"{TOWER}|(?:.*\.)?(?:multi_modal|mm)_projector\.")


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers takes the weights from, and others of their kind."""
    kinds = [kind for kind in _MAIN if has_weights(folder, kind)] or [*_MAIN]
    named = folder / _named(folder)
    for kind in kinds:
        found = {*folder.glob(f"*.{kind}"), *([named] if named.is_file() else [])}
        if found:
            return sorted(found)
    return []


def has_weights(folder: Path, kind: str) -> bool:
    """Whether a folder has the file, or the index, that transformers looks for.

    Args:
        folder: As ``save_pretrained`` wrote it.
        kind: ``safetensors``, which comes first, or ``bin``.

    Returns:
        False where only other files are of this kind, which transformers passes over.
    """
    main = folder / f"{_MAIN[kind]}.{kind}"
    return main.is_file() or main.with_name(f"{main.name}.index.json").is_file()


def _named(folder: Path) -> str:
    """The weight file that a configuration names itself; empty if it names none."""
    return str(_config(folder).get("transformers_weights") or "")


def model_type(folder: Path) -> str | None:
    """The family that a configuration names; None if it names none, or is not read."""
    found = _config(folder).get("model_type")
    return found if isinstance(found, str) else None


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a model; empty if it cannot be read, which loading says."""
    try:
        found = json_reader.read((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def files(folder: Path) -> dict[str, Path]:
    """Every file of a model folder that can change a number, by its name.

    Args:
        folder: As ``save_pretrained`` wrote it.

    Returns:
        The weight files whole, configuration, tokenizer, chat templates and code.
    """
    small = [p for p in folder.iterdir() if p.suffix in _SMALL and p.is_file()]
    templates = folder.glob("additional_chat_templates/*.jinja")
    return {
        str(p.relative_to(folder)): p
        for p in (*weight_files(folder), *small, *templates)
    }


def faults(folder: Path) -> list[str]:
    """What is wrong with the weight files of a folder, one sentence a file."""
    if (folder / "adapter_config.json").is_file():
        return [
            f"{folder} holds an adapter (adapter_config.json), whose base model is "
            "another folder: merge the two with `merge_and_unload` of peft, save the "
            "result, and name that folder"
        ]
    found = weight_files(folder)
    if not found:
        return [
            f"{folder} has no weights in *.safetensors or *.bin: save the model again "
            "with `save_pretrained`"
        ]
    wrong = [fault for path in found if (fault := _fault(path))]
    return wrong + [
        f"{folder / name} is missing, and the index names it: fetch the file again"
        for name in sorted(_shards(folder) - {p.name for p in found})
    ]


def _shards(folder: Path) -> set[str]:
    """The files that an index names."""
    kind = "safetensors" if has_weights(folder, "safetensors") else "bin"
    stem = _MAIN[kind]
    if (folder / f"{stem}.{kind}").is_file():  # it comes before the index
        return set()
    try:
        index = json_reader.read((folder / f"{stem}.{kind}.index.json").read_bytes())
        return {str(name) for name in index["weight_map"].values()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return set()


def _fault(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS))
            # A repository that was cloned without LFS has a short text in place of each
            # large file.
            if head == _LFS:
                return (
                    f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` "
                    "in its folder"
                )
            if path.suffix == ".bin":
                return _pickle_fault(path, head)
            # A safetensors file: 8 bytes with the length of the header, the header in
            # JSON, the data.
            size = int.from_bytes(head[:8], "little")
            if len(head) < 8 or size > _MAX_HEADER:
                return f"{path} is not a safetensors file: fetch it again"
            file.seek(8)
            header = json_reader.read(file.read(size))
            ends = [e["data_offsets"][1] for k, e in header.items() if k[:2] != "__"]
            needed, there = 8 + size + max(ends, default=0), path.stat().st_size
    except OSError as why:
        return f"{path} cannot be read: {why.strerror}"
    except (ValueError, AttributeError, LookupError, TypeError):
        return f"{path} is cut off or not a safetensors file: fetch it again"
    if there == needed:
        return None
    return (
        f"{path} has {there} bytes and its header describes {needed}: it is cut off "
        "or damaged, fetch it again"
    )


def _pickle_fault(path: Path, head: bytes) -> str | None:
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        return f"{path} is cut off: fetch it again"
    return None


def convert(path: Path) -> str:
    """How to turn a pickle that is not loaded here into safetensors."""
    script = (
        "import sys, torch; from safetensors.torch import save_file; "
        "state = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        "save_file({k: v.clone() for k, v in state.items()}, sys.argv[2], "
        "metadata={'format': 'pt'})"
    )
    return (
        f"{path} holds more than tensors, and loading such a pickle may run any code; "
        "if you trust its author, convert it: "
        f'python -c "{script}" {path} {path.with_name("model.safetensors")}'
    )


def refuse_misfit(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a network of which the checkpoint did not fill every tensor.

    Args:
        name: Of the model, for the message.
        info: ``output_loading_info`` of ``from_pretrained``. Tied weights and tensors
            that the architecture computes are not in it.

    Raises:
        BenchError: Naming the tensors that are missing, of another shape, or unknown
            to the architecture.
    """
    wrong = list(_misfits(info))
    if wrong:
        raise BenchError(
            f"the checkpoint of {name!r} does not fit its config.json: "
            f"{'; '.join(wrong)}. Its numbers would be those of random weights: fetch "
            "or save the model again"
        )


def refuse_unconverted(name: str, lines: list[str]) -> None:
    """Refuse tensors that could not be put together, the experts of a layer say.

    Args:
        name: Of the model, for the message.
        lines: Of the report of transformers; none if it has another reason.

    Raises:
        BenchError: Naming them.
    """
    found = sorted({line.split("|")[0].strip() for line in lines})
    if found:
        raise BenchError(
            f"the checkpoint of {name!r} does not fit its config.json: parts of "
            f"{_some(found)} are missing or have another shape: fetch or save the "
            "model again"
        )


def _misfits(info: Mapping[str, Any]) -> Iterator[str]:
    # Each list of the report that transformers makes, in words.
    missing = sorted(map(str, info.get("missing_keys") or ()))
    shapes = [
        f"{entry[0]} ({list(entry[1])} in the file, {list(entry[2])} in the network)"
        if isinstance(entry, tuple | list)
        else str(entry)
        for entry in sorted(info.get("mismatched_keys") or (), key=str)
    ]
    unknown = [
        key
        for key in sorted(map(str, info.get("unexpected_keys") or ()))
        if not key.endswith(_CONSTANTS) and not _TOWERS.match(key)
    ]
    errors = [str(e).splitlines()[0] for e in info.get("error_msgs") or ()]
    for title, found in (
        ("it lacks", missing),
        ("these have another shape:", shapes),
        ("the network has no place for", unknown),
        ("it could not be read:", errors),
    ):
        if found:
            yield f"{title} {_some(found)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more

"""The number of parameters in a model folder, from file headers and sizes alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from results.text import json_reader

MAX_HEADER = 100_000_000  # bytes; the safetensors format allows no longer header
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "half": 2}


def stored_params(folder: Path) -> int | None:
    """Count the parameters that the weight files of a folder hold.

    No tensor is read. A safetensors file states the shape of each tensor in its header;
    the count of PyTorch files is their size over the bytes of one value of the dtype
    in ``config.json``.

    Args:
        folder: A folder as ``save_pretrained`` writes it.

    Returns:
        At least 1; None if the folder has no weight file that can be read, for example
        because the weights are Git LFS pointers.
    """
    try:
        found = sum(_elements(path) for path in _shards(folder, "model.safetensors"))
        if not found:
            size = sum(
                path.stat().st_size
                for path in _shards(folder, "pytorch_model.bin")
                if not _is_pointer(path)
            )
            found = size // _value_bytes(folder)
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return None
    return found or None


def _shards(folder: Path, name: str) -> list[Path]:
    """The files that transformers would load: one, or those that an index names."""
    index = folder / f"{name}.index.json"
    if (folder / name).is_file():
        return [folder / name]
    if index.is_file():
        names = json_reader.read(index.read_bytes())["weight_map"].values()
        return [folder / shard for shard in sorted(set(names))]
    return []


def _elements(path: Path) -> int:
    """Elements of all tensors of a safetensors file; 0 for a Git LFS pointer."""
    if _is_pointer(path):
        return 0
    with path.open("rb") as file:
        # A safetensors file: 8 bytes with the length of the header, the header in JSON,
        # the data.
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"the header of {path} would be {length} bytes long")
        header: dict[str, Any] = json_reader.read(file.read(length))
    shapes = [t["shape"] for name, t in header.items() if name != "__metadata__"]
    found = sum(math.prod(shape) for shape in shapes)
    # The smallest element takes half a byte; a header that states more is not true.
    if not 0 <= found <= 2 * path.stat().st_size:
        raise ValueError(f"{path} is too short for the {found} elements of its header")
    return found


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(20).startswith(b"version https://git")


def _value_bytes(folder: Path) -> int:
    """Bytes of one weight by the configuration; float32 where it states no dtype."""
    config = json_reader.read((folder / "config.json").read_bytes())
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return _BYTES.get(str(dtype), 4)

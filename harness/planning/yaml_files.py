"""YAML files that people write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core import BenchError
from results.text import yaml_reader


def read(path: Path) -> Any:
    """The value of a YAML file.

    Args:
        path: Path of the YAML file.

    Returns:
        Plain lists, dicts and scalars.

    Raises:
        BenchError: If it cannot be read, is not YAML, has a tag, a key twice, or is
            larger or deeper than any honest file.
    """
    try:
        return yaml_reader.read(path.read_bytes())
    except OSError as why:
        raise BenchError(f"cannot read {path}: {why.strerror}") from why
    except ValueError as why:
        raise BenchError(f"{path}: {why}") from why

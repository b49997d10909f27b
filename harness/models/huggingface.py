"""Any causal language model of transformers, by hub name or by local folder."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core import BenchError, Model
from harness.models import _language
from harness.registry import model
from harness.toolkit.stored_size import stored_params


@model("huggingface", kind="causal_lm", gives=_language.GIVES, fallback=True)
class HuggingFace:
    """A causal language model by its hub name (``facebook/opt-125m``) or folder.

    ``trust_remote_code`` is refused unless ``commit`` is a full commit, so that
    nobody else can change the code that runs.

    Args:
        id: Hub name or folder; the name in the grid sets it.
        commit: Branch, tag or commit of the hub repository; ignored for a folder.
        trust_remote_code: Whether code from the model's repository may run.
    """

    id: str
    commit: str = "main"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.trust_remote_code and not _COMMIT.fullmatch(self.commit):
            raise ValueError(
                "trust_remote_code needs `commit` to be a full commit of 40 digits, "
                f"not {self.commit!r}: a branch may change the code that runs"
            )

    @staticmethod
    def claim(name: str) -> dict[str, Any] | None:
        """Hub names hold a slash; a folder holds a ``config.json``.

        Args:
            name: As a grid writes it, with ``@COMMIT`` behind it for a pinned one.

        Returns:
            The options that the name implies, or None.

        Raises:
            BenchError: If it is a folder that holds no model.
        """
        bare, _, commit = name.partition("@")
        if Path(bare).expanduser().is_dir() and not _is_folder(bare):
            raise BenchError(
                f"the model folder {bare} has no config.json; name the folder that "
                "`save_pretrained` wrote"
            )
        if not _is_folder(bare) and not re.fullmatch(r"[\w.-]+/[\w.-]+", bare):
            return None
        return {"id": bare} | ({"commit": commit} if commit else {})

    def revision(self) -> str:
        """The commit on the hub, or a hash over a folder's configuration and sizes.

        Returns:
            Forty hexadecimal digits, or ``local:`` and sixteen.

        Raises:
            BenchError: If the model is neither cached nor within reach.
        """
        if _COMMIT.fullmatch(self.commit):
            return self.commit
        if _is_folder(self.id):
            return _folder_revision(Path(self.id).expanduser())
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(self.id, "config.json", revision=self.commit)
        except (OSError, ValueError) as why:
            raise self._missing(why) from why
        return Path(path).parent.name

    def at(self, revision: str) -> HuggingFace:
        """This model at a revision that ``revision()`` once gave.

        Args:
            revision: A commit; that of a folder is not to be chosen.

        Returns:
            The model whose ``load`` reads no other.
        """
        if not _COMMIT.fullmatch(revision):
            return self
        return replace(self, commit=revision)  # type: ignore[type-var]

    def fetch(self) -> None:
        """Have every file of the model on this machine, without loading it."""
        if _is_folder(self.id):
            return
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.txt", "*.model", "*.jinja"]
        if self.trust_remote_code:
            wanted.append("*.py")
        try:
            for weights in ("*.safetensors", "*.bin"):
                folder = snapshot_download(
                    self.id, revision=self.revision(), allow_patterns=[*wanted, weights]
                )
                if any(Path(folder).glob(weights)):
                    return
        except (OSError, ValueError) as why:
            raise self._missing(why) from why

    def stored_params(self) -> int | None:
        """Parameters by the weight files of a folder; None for a name on the hub."""
        if not _is_folder(self.id):
            return None
        return stored_params(Path(self.id).expanduser())

    def load(self) -> Model:
        """The network with its weights as stored, on the CPU, in eval mode.

        Returns:
            The model.

        Raises:
            BenchError: If it cannot be had, or is no causal language model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        _language.without_bars()
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if not _is_folder(self.id):
            options["revision"] = self.revision()
        where = str(Path(self.id).expanduser()) if _is_folder(self.id) else self.id
        try:
            net = AutoModelForCausalLM.from_pretrained(where, dtype="auto", **options)
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
        except (OSError, ValueError) as why:
            raise self._missing(why) from why
        return _language.wrap(self.id, net, tokenizer)

    def save_skeleton(self, model: Model, folder: Path) -> None:
        """Write configuration and tokenizer, from which ``skeleton`` rebuilds."""
        _language.save_skeleton(model, folder)

    def skeleton(self, folder: Path) -> Model:
        """The network without its weights; the hub is not asked."""
        return _language.skeleton(self.id, folder)

    def _missing(self, why: Exception) -> BenchError:
        reason = (str(why).strip() or type(why).__name__).splitlines()[0][:160]
        return BenchError(
            f"model {self.id!r} cannot be had: {reason}. It needs a causal language "
            "model of transformers, on the hub (run `shrinkgrid prepare GRID` where "
            "there is a network) or in a folder with config.json"
        )


_COMMIT = re.compile(r"[0-9a-f]{40}")


def _is_folder(name: str) -> bool:
    return (Path(name).expanduser() / "config.json").is_file()


def _folder_revision(folder: Path) -> str:
    """A hash over the configuration, and over names and sizes of the weight files."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors*")):
        with path.open("rb") as file:  # the head of the file holds names and shapes
            digest.update(f"{path.name}/{path.stat().st_size}/".encode())
            digest.update(file.read(1 << 20))
    return f"local:{digest.hexdigest()[:16]}"

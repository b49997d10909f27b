"""Any causal language model of transformers, by hub name or by local folder."""

from __future__ import annotations

import json
import pickle
import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from harness.core import BenchError, Model
from harness.models import _language
from harness.registry import model
from harness.toolkit import checkpoint, devices, hub, identity, model_size, shape
from harness.toolkit.shape import Shape
from harness.toolkit.stored_size import stored_params


@model("huggingface", kind="causal_lm", gives=_language.GIVES, fallback=True, version=2)
class HuggingFace:
    """A causal language model by its hub name (``facebook/opt-125m``) or folder.

    ``trust_remote_code`` is refused unless ``commit`` is a full commit, so that
    nobody else can change the code that runs.

    Args:
        id: The hub name, or the path of a folder that ``save_pretrained`` wrote.
        commit: Commit, branch or tag on the hub; ignored for a folder.
        trust_remote_code: Run the model code that comes with the weights.
        partial: ``allow`` lets methods treat a model of which they know less than
            95 % of the block weights (state spaces, say); the rest stays dense.
    """

    names: ClassVar[str] = (
        "Or name any causal language model of the Hugging Face hub as OWNER/NAME, for "
        "example huggyllama/llama-7b, or the path of a folder."
    )

    id: str
    commit: str = "main"
    trust_remote_code: bool = False
    partial: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        if self.trust_remote_code and not _COMMIT.fullmatch(self.commit):
            raise ValueError(
                "trust_remote_code needs `commit` to be a full commit of 40 digits, "
                f"not {self.commit!r}: a branch may change the code that runs"
            )

    @staticmethod
    def claim(name: str) -> dict[str, Any] | None:
        """The options that a name implies: a hub name, or a folder with config.json.

        Args:
            name: As a grid writes it; ``NAME@COMMIT`` pins a commit of the hub.

        Returns:
            The options, or None if it is neither.

        Raises:
            BenchError: If it is a path without a folder, or a folder without a model.
        """
        bare, _, commit = name.partition("@")
        if _is_path(bare) and not Path(bare).expanduser().exists():
            raise BenchError(_no_folder(bare))
        if Path(bare).expanduser().is_dir() and not _is_folder(bare):
            raise BenchError(
                f"the model folder {bare} has no config.json; name the folder that "
                "`save_pretrained` wrote"
            )
        if not _is_folder(bare) and not re.fullmatch(r"[\w.-]+/[\w.-]+", bare):
            return None
        return {"id": bare} | ({"commit": commit} if commit else {})

    def revision(self) -> str:
        """The commit on the hub, or the content of every file of a folder.

        Returns:
            Forty hexadecimal digits, or ``local:`` and sixteen.

        Raises:
            BenchError: If the model is neither cached nor on a hub that answers.
        """
        # Content and not the path or the time of the files.
        if _is_folder(self.id):
            found = identity.of_files(checkpoint.files(self._folder()))
            return f"local:{found.removeprefix('sha256:')}"
        if _COMMIT.fullmatch(self.commit):
            return self.commit
        # The hub's cache keeps each commit in a folder of its name.
        return self._folder().name

    def paths(self) -> tuple[str, ...]:
        """The option ``id`` if it is a folder, whose content is the revision."""
        return ("id",) if _is_folder(self.id) else ()

    def _folder(self) -> Path:
        """The folder with ``config.json``: the user's, or the hub's copy here."""
        if _is_folder(self.id):
            return Path(self.id).expanduser()
        if _is_path(self.id):
            raise BenchError(_no_folder(self.id))
        hub.settle()
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(self.id, "config.json", revision=self.commit)
        except (OSError, ValueError) as why:
            raise self._missing(why) from why
        return Path(path).parent

    def refuses(self, method: Mapping[str, Any]) -> str | None:
        """Why a method cannot treat this model, from its configuration alone.

        Args:
            method: What the method declares.

        Returns:
            One sentence, or None if it can, or if only loading can tell.
        """
        if not model_size.reads_roles(method):
            return None
        try:
            folder = self._folder()
        except BenchError:  # not on this machine, which the plan says elsewhere
            return None
        if (folder / _language.STRUCTURE).is_file():
            return None  # a network that was compressed here has modules of its own
        seen = _language.configured(folder, trust_remote_code=self.trust_remote_code)
        if seen is None:
            return None
        return _language.refusal(self.id, self.partial, seen, method)

    def refuses_loaded(self, method: Mapping[str, Any], model: Model) -> str | None:
        """As ``refuses``, from the network that was loaded."""
        if not model_size.reads_roles(method):
            return None
        seen = _language.look(model)
        return _language.refusal(self.id, self.partial, seen, method)

    def at(self, revision: str) -> HuggingFace:
        """This model at a revision that ``revision()`` gave.

        Args:
            revision: A commit; the revision of a folder cannot be chosen.

        Returns:
            The model whose ``load`` reads this commit.
        """
        if not _COMMIT.fullmatch(revision):
            return self
        return replace(self, commit=revision)  # type: ignore[type-var]

    def fetch(self) -> None:
        """Download every file of the model, without loading it."""
        if _is_folder(self.id):
            return
        hub.settle()
        from huggingface_hub import snapshot_download

        wanted = ["*.json", "*.txt", "*.model", "*.jinja"]
        if self.trust_remote_code:
            wanted.append("*.py")
        try:
            # Pickle files only if the repository has no safetensors file: many have
            # both.
            for kind in ("safetensors", "bin"):
                patterns = [*wanted, f"*.{kind}"]
                folder = snapshot_download(
                    self.id, revision=self.revision(), allow_patterns=patterns
                )
                if checkpoint.has_weights(Path(folder), kind):
                    return
        except (OSError, ValueError) as why:
            raise self._missing(why) from why

    def stored_params(self) -> int | None:
        """Parameters by the weight files of a folder; None for a name on the hub."""
        if not _is_folder(self.id):
            return None
        return stored_params(Path(self.id).expanduser())

    def shape(self) -> Shape | None:
        """The sizes by the configuration, without asking the hub.

        Returns:
            The shape; None if no configuration is here and the name is not that of a
            model in ``published.json``, or if its blocks hold several experts.
        """
        if self.id in _published():
            return shape.from_config(_published()[self.id])
        path = self._here("config.json")
        return shape.from_file(path) if path else None

    def family(self) -> str | None:
        """The ``model_type`` by the configuration, without asking the hub."""
        if path := self._here("config.json"):
            return checkpoint.model_type(path.parent)
        return _published().get(self.id, {}).get("model_type")

    def refuses_task(self, task: Any) -> str | None:
        """Why the tokenizer does not have what a task asks for, from its files."""
        path = self._here("tokenizer_config.json")
        return _language.refuses_task(self.id, path and path.parent, task)

    def _here(self, name: str) -> Path | None:
        """A file of the model on this machine, without asking the hub."""
        from huggingface_hub import try_to_load_from_cache

        if _is_folder(self.id):
            path = Path(self.id).expanduser() / name
            return path if path.is_file() else None
        try:
            found = try_to_load_from_cache(self.id, name, revision=self.commit)
        except ValueError:  # not a name that the hub could have
            return None
        return Path(found) if isinstance(found, str) else None

    def load(self) -> Model:
        """The network with its weights as stored, on the CPU, in eval mode.

        Returns:
            The model.

        Raises:
            BenchError: If it is not available, its files are damaged, they do not fill
                every tensor of the network, or it is not a causal language model.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if _is_folder(self.id) and (self._folder() / _language.STRUCTURE).is_file():
            return _language.saved(self.id, self._folder())
        _language.without_bars()
        options: dict[str, Any] = {"trust_remote_code": self.trust_remote_code}
        if not _is_folder(self.id):
            options["revision"] = self.revision()
        where = str(Path(self.id).expanduser()) if _is_folder(self.id) else self.id
        if _is_folder(self.id) and (wrong := checkpoint.faults(self._folder())):
            raise BenchError(*wrong)
        try:
            # transformers only logs what it cannot put together, and fills it with
            # random numbers.
            with _language.reports() as unconverted:
                net, info = AutoModelForCausalLM.from_pretrained(
                    where,
                    dtype="auto",
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # refused below, by name
                    **options,
                )
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
        except checkpoint.UNREADABLE as why:
            if isinstance(why, MemoryError) or devices.out_of_memory(why):
                raise
            checkpoint.refuse_unconverted(self.id, unconverted)
            raise self._unreadable(why) from why
        checkpoint.refuse_misfit(self.id, info)
        return _language.wrap(self.id, net, tokenizer)

    def save_skeleton(self, model: Model, folder: Path) -> None:
        """Write configuration and tokenizer, from which ``skeleton`` rebuilds."""
        _language.save_skeleton(model, folder)

    def skeleton(self, folder: Path) -> Model:
        """The network without its weights; the hub is not asked."""
        return _language.skeleton(self.id, folder)

    def _unreadable(self, why: Exception) -> BenchError:
        """The sentence for what transformers could not load."""
        folder = self._folder()
        wrong = checkpoint.faults(folder)
        if wrong:
            return BenchError(*wrong)
        pickled = [p for p in checkpoint.weight_files(folder) if p.suffix == ".bin"]
        if pickled and (isinstance(why, pickle.UnpicklingError) or _UNSAFE in str(why)):
            return BenchError(checkpoint.convert(pickled[0]))
        return self._missing(why)

    def _missing(self, why: Exception) -> BenchError:
        first = (str(why).strip() or type(why).__name__).splitlines()[0]
        sentence = first.split(". ")[0].rstrip(".")
        reason = textwrap.shorten(sentence, 160, placeholder=" ...")
        return BenchError(
            f"model {self.id!r} is not available: {reason}. It must be a causal "
            "language model of transformers, on the hub (run `shrinkgrid prepare GRID` "
            "where there is a network) or in a folder with config.json"
        )


@cache
def _published() -> dict[str, dict[str, Any]]:
    """What ``config.json`` says of the models that papers compress, by hub name."""
    text = Path(__file__).with_name("published.json").read_text()
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


_COMMIT = re.compile(r"[0-9a-f]{40}")
_UNSAFE = "weights_only"  # in torch's words where a pickle holds more than tensors


def _is_path(name: str) -> bool:
    """Whether a name can only be a path: a hub name never begins like this."""
    return name.startswith(("./", "../", "/", "~"))


def _no_folder(name: str) -> str:
    return (
        f"no model folder {name}; name a folder that `save_pretrained` wrote, or a "
        "model of the hub as OWNER/NAME"
    )


def _is_folder(name: str) -> bool:
    return (Path(name).expanduser() / "config.json").is_file()

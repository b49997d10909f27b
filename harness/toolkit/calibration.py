"""Calibration: windows of a text, and how the inputs of each matrix look on it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.core import BenchError, Model, NotFinite
from harness.toolkit import identity, texts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.toolkit.experts import Routed

_INDEX, _TOKENS = "calibration.json", "tokens.safetensors"


@dataclass(frozen=True, kw_only=True)
class CalibrationSpec:
    """Which windows of which text methods may learn from.

    Args:
        text: A name of ``harness.toolkit.texts``, or the path of a file.
        samples: Number of windows of text.
        length: Number of tokens per window.
        seed: Seed that draws random windows.
        sampling: The ``first`` windows side by side, or windows at ``random`` places.
        content: Identity of the text, as ``texts.fingerprint`` gives it; the plan fills
            it in, and in a grid it pins the text.
        overlap: ``allow`` lets methods learn from the text that a task evaluates; the
            numbers are then those of a method that has seen the test data.
    """

    text: str = "pydoc-train"
    samples: int = 64
    length: int = 512
    seed: int = 0
    sampling: Literal["first", "random"] = "first"
    content: str = ""
    overlap: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples {self.samples} is not 1 or more")
        if self.length < 2:
            raise ValueError(f"length {self.length} is not 2 or more tokens")


@dataclass(frozen=True, slots=True)
class Calibration:
    """The statistics in a folder, read on first use.

    Args:
        folder: As ``build`` filled it.
        index: Content of the artifact's ``calibration.json``.
    """

    folder: Path
    index: Mapping[str, Any] = field(repr=False)

    @property
    def tokens(self) -> Tensor:
        """The windows, shape ``(N, L)``."""
        from harness.toolkit.tensor_files import read_tensor

        return read_tensor(self.folder / _TOKENS, "tokens")

    def site_of(self, layer: str) -> str:
        """The input site that a matrix reads; matrices of one site read one tensor.

        Args:
            layer: Path of the layer's module.

        Returns:
            The module path of the site's first matrix.

        Raises:
            BenchError: If no input of this layer was seen.
        """
        try:
            site: str = self.index["sites"][layer]
        except KeyError:
            raise BenchError(f"no calibration statistics of layer {layer}") from None
        return site

    def gram(self, layer: str) -> Tensor:
        """The mean of ``x x^T`` over all tokens, for the input x of a matrix.

        Args:
            layer: Module path of the matrix.

        Returns:
            Float32, shape ``(in, in)``.
        """
        return self._read(layer, "gram")

    @property
    def routed(self) -> Mapping[str, Routed]:
        """Module path of each expert -> what it saw; empty without a mixture.

        An expert that few tokens reach also reads others for its statistics, see
        ``harness.toolkit.experts.completed``.
        """
        from harness.toolkit.experts import Routed

        found = self.index.get("routed", {})
        return {expert: Routed(*seen) for expert, seen in found.items()}

    def mean_abs(self, layer: str) -> Tensor:
        """The mean of ``|x|`` over all tokens, by channel: float32, shape ``(in,)``."""
        return self._read(layer, "abs")

    def _read(self, layer: str, what: str) -> Tensor:
        from harness.toolkit.tensor_files import read_tensor

        site = self.site_of(layer)
        path = self.folder / self.index["files"][site]
        return read_tensor(path, f"{site}.{what}")


def sample(ids: Tensor, spec: CalibrationSpec) -> Tensor:
    """Cut the windows out of a tokenised text.

    Args:
        ids: Token ids of the text, shape ``(tokens,)``.
        spec: Number, length and order of the windows.

    Returns:
        Shape ``(samples, length)``.

    Raises:
        BenchError: If the text is too short.
    """
    import torch

    # "first" needs all its windows side by side; random windows may overlap.
    first = spec.sampling == "first"
    needed = spec.samples * spec.length if first else spec.length
    if len(ids) < needed:
        raise BenchError(
            f"calibration text {spec.text} has {len(ids)} tokens, and {spec.samples} "
            f"{spec.sampling} windows of {spec.length} need {needed}: take fewer or "
            "shorter windows, or a longer text"
        )
    if first:
        return ids[:needed].view(spec.samples, spec.length)
    source = torch.Generator().manual_seed(spec.seed)
    starts = torch.randint(
        0, len(ids) - spec.length + 1, (spec.samples,), generator=source
    )
    return torch.stack([ids[s : s + spec.length] for s in starts.tolist()])


def build(model: Model, spec: CalibrationSpec, folder: Path) -> None:
    """Run the windows through the dense model and write the statistics of each input.

    Block by block: beside the model, the hidden states of all windows and the Gram
    matrices of one block are alive, and each block's go to a file of their own. Each
    expert of a mixture has the statistics of the tokens that are routed to it.

    Args:
        model: The dense language model.
        spec: Which windows of which text.
        folder: Made if missing; filled with tokens, one file a block, and an index.

    Raises:
        BenchError: If the text or the model is too short for a window.
        NotFinite: If an input holds NaN or an infinity; names the layer.
    """
    from safetensors.torch import save_file

    from harness.toolkit.blockwise import stream
    from harness.toolkit.experts import completed

    if model.encode is None:
        raise BenchError(f"{model.name} has no tokenizer to read {spec.text} with")
    if model.max_length is not None and spec.length > model.max_length:
        raise BenchError(
            f"calibration length {spec.length} is more than the {model.max_length} "
            f"tokens that {model.name} reads: set length to {model.max_length} or less"
        )
    text = texts.read(spec.text)
    if spec.content and identity.of_text(text) != spec.content:
        raise BenchError(texts.differs(spec.text, identity.of_text(text), spec.content))
    tokens = sample(model.encode(text), spec)
    _trim()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"tokens": tokens.contiguous()}, folder / _TOKENS)
    sites: dict[str, str] = {}
    files: dict[str, str] = {}
    routed: dict[str, Routed] = {}
    running = stream(model, tokens)
    # One pass through the network, block by block: the states after a block are the
    # inputs of the next one, so that no token is computed twice.
    for number, (path, block) in enumerate(running):
        members = {n: m for n, m in model.modules() if n.startswith(f"{path}.")}
        # Experts with few tokens run once more, which the sums have to see.
        with collect(members) as statistics, completed(block) as counts:
            running.advance(number, block)
        routed |= {f"{path}.{expert}": count for expert, count in counts.items()}
        name = f"block-{number:04}.safetensors"
        save_file(statistics.finished(), folder / name)
        sites |= statistics.sites
        files |= dict.fromkeys(statistics.gram, name)
        _trim()
    index = {"sites": sites, "files": files, "samples": spec.samples}
    index |= {"routed": routed} if routed else {}
    (folder / _INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _trim() -> None:
    """Give the system what was freed: glibc keeps a tokeniser's many small pieces."""
    with suppress(OSError, AttributeError):  # another C library has its own ways
        ctypes.CDLL(None).malloc_trim(0)


def open(folder: Path) -> Calibration:  # noqa: A001 - the engine's word for it
    """The calibration that ``build`` wrote into ``folder``.

    Args:
        folder: Folder of the stored artifact.

    Returns:
        Its reader.

    Raises:
        BenchError: If the folder holds none.
    """
    path = folder / _INDEX
    if not path.is_file():
        raise BenchError(f"{folder} holds no calibration: {_INDEX} is missing")
    return Calibration(folder, json.loads(path.read_text()))


@dataclass(slots=True)
class Statistics:
    """Running sums over the inputs of some matrices, in float64.

    Args:
        sites: Matrix -> the first matrix that reads the same tensor.
        gram: Sum of ``x x^T`` by site.
        abs: Sum of ``|x|`` by site.
        tokens: Number of inputs by site.
    """

    sites: dict[str, str] = field(default_factory=dict)
    gram: dict[str, Tensor] = field(default_factory=dict)
    abs: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    _last: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, x: Tensor) -> None:
        """Count the input of one matrix, unless another of its site has counted it."""
        if name not in self.sites:
            # Query, key and value read the same tensor object: one Gram matrix serves
            # the three.
            same = (s for s, seen in self._last.items() if seen is x)
            self.sites[name] = next(same, name)
        # Another matrix of this site has counted the same input.
        if self.sites[name] != name:
            return
        self._last[name] = x
        rows = x.detach().reshape(-1, x.shape[-1]).float()  # (tokens, in)
        # The product of one batch in float32, the sum over batches in float64: a long
        # sum in float32 would lose digits. gram: (in, in), total: (in,).
        gram, total = rows.T @ rows, rows.abs().sum(0).double()
        # The diagonal is the sum of squares of each channel: NaN or infinite if any
        # input is.
        if not bool(gram.diagonal().isfinite().all()):
            raise NotFinite(f"an input of {name} is not finite on the calibration text")
        if name in self.gram:
            self.gram[name] += gram
            self.abs[name] += total
        else:
            self.gram[name], self.abs[name] = gram.double(), total
        self.tokens[name] = self.tokens.get(name, 0) + len(rows)

    def finished(self) -> dict[str, Tensor]:
        """The means as float32, as the file of a block holds them."""
        means = {}
        for what, sums in (("gram", self.gram), ("abs", self.abs)):
            for site, total in sums.items():
                means[f"{site}.{what}"] = (total / self.tokens[site]).float().cpu()
        return means


@contextmanager
def collect(modules: Mapping[str, nn.Module]) -> Iterator[Statistics]:
    """Sum up the inputs of ``modules`` while the context is open.

    Args:
        modules: Module path -> linear module.

    Yields:
        The sums, complete once the context is left.
    """
    statistics = Statistics()

    def hook(name: str) -> Any:
        return lambda module, args: statistics.add(name, args[0])

    handles = [
        module.register_forward_pre_hook(hook(name)) for name, module in modules.items()
    ]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()
        statistics._last.clear()

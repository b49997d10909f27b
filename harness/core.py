"""Types that plugins receive and return.

A plugin passes three stages. ``registry.Plugin`` is the class with what its decorator
declares. ``configured_plugin.ConfiguredPlugin`` is an instance with the options of one
line of a grid. ``trial.PluginSpec`` identifies the plugin in a trial by its name,
options, version and revision, which are stored and sent to workers.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from results.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.toolkit.calibration import Calibration

Goal = Literal["min", "max", "none"]
Kind = Literal["causal_lm", "classifier", "seq2seq", "any"]


class BenchError(UserError):
    """An error in a grid, an option, the input of a plugin, or on a machine."""


class Unsupported(Exception):
    """This method cannot treat this model or task; the trial's row says why."""


class NotFinite(Exception):
    """A loss, an activation or a metric is NaN or infinite; the trial ends at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured number.

    Args:
        metric: The field's name for the number (``perplexity``, ``accuracy``).
        value: The number; never NaN: leave missing values out.
        unit: ``1`` for a pure number, else ``s``, ``B``, ``tokens/s`` ...
        goal: ``min`` or ``max`` is better; ``none`` ranks nothing.
        stderr: Standard error of ``value`` over the samples, where there is one.
        n: Number of samples that ``value`` is computed from.
        values: The per-sample values, for paired tests; stored apart in ``samples``.
        step: Epoch or step of a training curve; None for a final number.
        chance: What guessing gives: the best constant answer of a classifier, the size
            of the vocabulary for a perplexity. None where it is not known.
    """

    metric: str
    value: float
    unit: str = "1"
    goal: Goal = "none"
    stderr: float | None = None
    n: int | None = None
    values: Sequence[float] | None = None
    step: int | None = None
    chance: float | None = None


@dataclass(slots=True)
class Trained:
    """What the trainings of one step of a trial have read.

    Args:
        epochs: Passes over the training data, of all trainings together.
        samples: Training examples read, each as often as it was read.
    """

    epochs: int = 0
    samples: int = 0

    def add(self, epochs: int, samples: int) -> None:
        """Count one training; one that was resumed counts from its beginning."""
        self.epochs += epochs
        self.samples += samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network with what a method or a task must know of it.

    Args:
        name: As the grid names it.
        net: The network, in ``eval`` mode. Shared by a bundle: never change it.
        kind: What it does; a task says which kind it can measure.
        roles: Regular expression over module names -> role (``query``, ``key``,
            ``value``, ``output``, ``gate``, ``up``, ``down``, ``qkv``, ``conv``,
            ``linear``, ``exit_point`` ...); the first full match counts.
        example: Builds the keyword arguments of one forward pass, for counting MACs
            and for checking shapes: one image, or one window of tokens.
        encode: Text -> token ids of shape ``(tokens,)``; None unless a language model.
        tokenizer: The Hugging Face tokenizer behind ``encode``, for lm-eval.
        max_length: Longest window in tokens, None where there is no limit.
    """

    name: str
    net: nn.Module
    kind: Kind
    roles: Mapping[str, str]
    example: Callable[[], dict[str, Any]]
    encode: Callable[[str], Tensor] | None = None
    tokenizer: Any = None
    max_length: int | None = None

    def role(self, name: str) -> str | None:
        """The role of the module called ``name``, or None."""
        # In the order of the mapping: a special pattern stands before a general one.
        for pattern, role in self.roles.items():
            if re.fullmatch(pattern, name):
                return role
        return None

    def modules(self, *roles: str) -> Iterator[tuple[str, nn.Module]]:
        """Modules whose role is one of ``roles`` (any when none is given), in order."""
        for name, module in self.net.named_modules():
            role = self.role(name)
            if role is not None and (not roles or role in roles):
                yield name, module

    def with_net(self, net: nn.Module) -> Model:
        """The same model around another network, a compressed one say."""
        return Model(
            **{f: getattr(self, f) for f in self.__slots__ if f != "net"}, net=net
        )


@dataclass(slots=True, kw_only=True)
class Context:
    """What a method receives besides the model; the engine makes one per bundle.

    Args:
        model: The dense model: pretrained, or trained here and read from its artifact.
        seed: Seed of the trial's random generators.
        device: Device that the method computes on.
        data: The task's training data (``Task.data()``), None for pretrained models.
        scratch: A folder that outlives a killed attempt, for training checkpoints.
        calibrate: Gives the calibration data of the trial; see ``calibration``.
        checkpoint_key: Prefix of checkpoint names, so that ratios do not mix.
        recorded: What the method measured itself.
        trained: What its trainings have read; a training adds to it.
    """

    model: Model
    seed: int
    device: torch.device
    data: Any = None
    scratch: Path | None = None
    calibrate: Callable[[], Calibration] | None = None
    checkpoint_key: str = "fit"
    recorded: list[Measurement] = field(default_factory=list)
    trained: Trained = field(default_factory=Trained)

    def dense(self) -> nn.Module:
        """A fresh copy of the dense network, yours to change.

        Returns:
            A copy in memory, or in files where the network itself is in files (see
            ``harness.toolkit.host_memory``).
        """
        # By name, since this module imports no torch.
        host = getattr(self.model.net, "host_memory", None)
        copied: nn.Module = (host.copy if host else copy.deepcopy)(self.model.net)
        return copied

    def stream(self, name: str) -> torch.Generator:
        """A random stream for one purpose: same seed and name, same numbers.

        Args:
            name: What the numbers are for; streams of other names are independent.

        Returns:
            A CPU generator.
        """
        import torch

        # Hashed, so that seed 1 of one name and seed 2 of another have nothing in
        # common; shifted to 63 bits, which every generator takes as a seed.
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def calibration(self) -> Calibration:
        """Calibration tokens and statistics of the dense model.

        Returns:
            The calibration that the grid names, built once for all methods.

        Raises:
            Unsupported: If the model has none (it reads no text).
        """
        if self.calibrate is None:
            raise Unsupported(f"{self.model.name} has no calibration data")
        return self.calibrate()

    def record(self, *measurements: Measurement) -> None:
        """Store measurements with the trial: a training curve, an error, a rank."""
        self.recorded.extend(measurements)

    @property
    def checkpoint(self) -> Path | None:
        """Path where running training saves its state, to resume after a kill."""
        if self.scratch is None:
            return None
        return self.scratch / f"{self.checkpoint_key}.safetensors"


class Method(Protocol):
    """Compresses a model; see ``harness.registry.method`` for what it declares."""

    def compress(self, fitted: Any, ratio: float, ctx: Context) -> nn.Module:
        """A compressed network; ``fitted`` is left as it was found."""


class Task(Protocol):
    """Data, a protocol and a measurement; see ``harness.registry.task``."""

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Measure ``model``."""

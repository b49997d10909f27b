"""The one trainer: of dense networks, and of every method that trains."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from harness.core import BenchError, Context, Measurement, NotFinite
from harness.options import dumps
from harness.toolkit.optimizer import half_precision, optimizer_of
from harness.toolkit.recipe import Recipe
from harness.toolkit.tensor_files import read_header, read_tensors

__all__ = ["Examples", "Objective", "Recipe", "predict", "quiet_seed", "train"]

SAVE_SECONDS = 30.0  # between checkpoints of a running training
# Reading a loss waits for the device; a GPU is asked this seldom, and every loss read
# then is checked, so that the step named is exact.
_STEPS_BETWEEN_CHECKS = 25


class Examples(Sized, Protocol):
    """Training data that is batched by index."""

    def batch(self, index: Tensor, rng: torch.Generator | None = None) -> Any:
        """The examples at ``index``; ``rng`` draws augmentation, None for none."""


@dataclass(kw_only=True)
class Objective:
    """What is minimised, and what happens around a step; cross-entropy by default.

    Args:
        name: Keeps the checkpoints and random streams of several trainings of one
            trial apart.
        first_epoch: Number of the first epoch on the recorded curve.
        label_smoothing: Share of the target spread over all classes.
    """

    name: str = "train"
    first_epoch: int = 0
    label_smoothing: float = 0.0

    def loss(self, net: nn.Module, batch: Any) -> Tensor:
        """The scalar to minimise on one batch."""
        images, labels = batch
        return functional.cross_entropy(
            net(images), labels, label_smoothing=self.label_smoothing
        )

    def after_backward(self, net: nn.Module) -> None:
        """Change the gradients, before they are clipped and applied."""

    def step(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Apply the gradients; a method with a rule of its own replaces this."""
        optimizer.step()

    def after_step(self, net: nn.Module) -> None:
        """Change the weights after each step (masks)."""

    def before_epoch(self, net: nn.Module, epoch: int) -> None:
        """Change what depends on the epoch (annealing, freezing)."""

    def validate(self, net: nn.Module, data: Any) -> dict[str, Measurement]:
        """Curve points on the validation split, by metric; the first one selects."""
        split = data.validation
        logits = predict(net, split)
        labels = split.labels.cpu()
        right = (logits.argmax(1) == labels).double().mean().item()
        loss = functional.cross_entropy(logits, labels).item()
        return {
            "validation_accuracy": Measurement(
                metric="validation_accuracy", value=right, goal="max", n=len(labels)
            ),
            "validation_loss": Measurement(
                metric="validation_loss", value=loss, goal="min", n=len(labels)
            ),
        }

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed training needs beside the network's."""
        return {}

    def restore(self, net: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` gave."""


@torch.inference_mode()
def predict(net: nn.Module, examples: Any, batch_size: int = 1000) -> Tensor:
    """Logits of every example, with the network in ``eval`` mode.

    Args:
        net: A classifier; its mode is put back afterwards.
        examples: One split of the images and labels.
        batch_size: Examples a forward pass.

    Returns:
        Shape ``(n, classes)``, float32, on the CPU.

    Raises:
        NotFinite: If a logit is NaN or infinite.
    """
    device, was_training = _device(net), net.training
    net.eval()
    chunks = []
    for start in range(0, len(examples), batch_size):
        index = torch.arange(start, min(start + batch_size, len(examples)))
        images, _ = examples.batch(index)
        chunks.append(net(images.to(device)).float().cpu())
    net.train(was_training)
    logits = torch.cat(chunks)
    # Minus infinity is allowed: it excludes a class, and its softmax is zero.
    if logits.isnan().any() or (logits == math.inf).any():
        raise NotFinite("the network's outputs are not finite")
    return logits


def train(
    net: nn.Module,
    recipe: Recipe,
    ctx: Context,
    *,
    objective: Objective | None = None,
    data: Any = None,
) -> None:
    """Train ``net`` in place, and leave it in ``eval`` mode.

    Same seed, same weights. Where ``ctx.checkpoint`` is set, a killed training goes on
    from its last checkpoint, and on a CPU ends with the same bits as one that was
    never killed.

    Args:
        net: Starts from the weights it has.
        recipe: Optimizer, learning rate and number of epochs.
        ctx: Gives seed, device, data and checkpoint; the curve (``train_loss``,
            ``validation_accuracy`` ... with ``step`` = epoch) is recorded in it.
        objective: What to minimise; cross-entropy by default.
        data: Splits ``train`` and ``validation``; ``ctx.data`` by default.

    The first loss that is NaN or infinite raises ``NotFinite`` with its step.
    """
    if objective is None:
        objective = Objective(label_smoothing=recipe.label_smoothing)
    with quiet_seed(ctx, f"{objective.name}/global"):
        _Training(net, recipe, ctx, objective, data or ctx.data).run()


@contextmanager
def quiet_seed(ctx: Context, name: str) -> Iterator[None]:
    """Seed torch's global generator (dropout, initial weights), and put it back."""
    cuda = [ctx.device] if ctx.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(ctx.stream(name).initial_seed())
        yield


@dataclass(kw_only=True)
class _Progress:
    """Where a training stands; all of it enters the checkpoint."""

    epoch: int = 0
    step: int = 0  # within the epoch
    steps: int = 0  # since the start
    samples: int = 0  # since the start
    loss_sum: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    curve: list[dict[str, Any]] = field(default_factory=list)


class _Training:
    def __init__(
        self, net: nn.Module, recipe: Recipe, ctx: Context, goal: Objective, data: Any
    ) -> None:
        self.net, self.recipe, self.ctx, self.goal = net, recipe, ctx, goal
        self.device = ctx.device
        net.to(self.device)
        self.data = data.to(self.device) if hasattr(data, "to") else data
        self.optimizer = optimizer_of(net, recipe)
        self.at = _Progress()
        self.best_net: dict[str, Tensor] = {}
        self.noise = ctx.stream(f"{goal.name}/augment")
        self.pending: list[tuple[int, Tensor]] = []
        self.saved_at = time.monotonic()
        mixed = recipe.mixed_precision and self.device.type == "cuda"
        own_rule = type(goal).step is not Objective.step
        self.half = half_precision(own_rule=own_rule) if mixed else None
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.half is torch.float16
        )

    def run(self) -> None:
        self._resume()
        # Both conditions read what the checkpoint restores, so that a resumed run stops
        # at the same epoch.
        while self.at.epoch < self.recipe.epochs and not self._out_of_patience():
            self._run_epoch()
        if self.recipe.keep == "best" and self.best_net:
            self.net.load_state_dict(self.best_net)
        self.net.eval()
        self.ctx.record(*(Measurement(**point) for point in self.at.curve))
        self.ctx.trained.add(self.at.epoch, self.at.samples)

    def _out_of_patience(self) -> bool:
        patience = self.recipe.patience
        return patience is not None and self.at.epoch - self.at.best_epoch > patience

    def _run_epoch(self) -> None:
        at, size = self.at, self.recipe.batch_size
        examples: Examples = self.data.train
        self.net.train()
        self.goal.before_epoch(self.net, at.epoch)
        # A stream for each epoch: a run that resumes in the middle of one draws the
        # same order again, and goes on at ``at.step``.
        order = torch.randperm(
            len(examples),
            generator=self.ctx.stream(f"{self.goal.name}/order/{at.epoch}"),
        ).to(self.device)
        count = max(1, math.ceil(len(examples) / size))
        if count > 1 and len(examples) % size == 1:
            count -= 1  # batch normalisation cannot read a batch of one
        for step in range(at.step, count):
            # Per step and not per epoch: warm-up and cosine change within an epoch.
            rate = self.recipe.rate(at.epoch + step / count)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            index = order[step * size : (step + 1) * size]
            self._step(examples.batch(index, self.noise))
            at.step = step + 1
            at.samples += len(index)
            self._save(now=False)
        self._check()
        self._end_epoch(count)
        self._save(now=at.epoch == self.recipe.epochs)

    def _step(self, batch: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.goal.loss(self.net, batch)
        # ``detach``: a kept loss would keep the activations of its whole step alive.
        self.pending.append((self.at.steps, loss.detach()))
        if self.device.type == "cpu" or len(self.pending) >= _STEPS_BETWEEN_CHECKS:
            self._check()
        self.scaler.scale(loss).backward()
        # The gradients of float16 are multiplied by the scale; clipping and the
        # objective need their true size.
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        self.goal.after_backward(self.net)
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.goal.step(self.net, self.optimizer)
        self.goal.after_step(self.net)
        self.at.steps += 1

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.half)

    def _check(self) -> None:
        for step, loss in self.pending:
            value = float(loss)
            if not math.isfinite(value):
                raise NotFinite(
                    f"the training loss is {value} at step {step} (epoch "
                    f"{self.at.epoch}, lr {self.recipe.rate(self.at.epoch):g})"
                )
            self.at.loss_sum += value
        self.pending.clear()

    def _end_epoch(self, count: int) -> None:
        at, step = self.at, self.goal.first_epoch + self.at.epoch
        points = self.goal.validate(self.net, self.data)
        loss = Measurement(metric="train_loss", value=at.loss_sum / count, goal="min")
        for point in [loss, *points.values()]:
            at.curve.append(
                {
                    "metric": point.metric,
                    "value": point.value,
                    "unit": point.unit,
                    "goal": point.goal,
                    "n": point.n,
                    "step": step,
                }
            )
        if points:
            first = next(iter(points.values()))
            # Larger is better from here on.
            score = first.value if first.goal == "max" else -first.value
            if score > at.best:
                at.best, at.best_epoch = score, at.epoch
                if self.recipe.keep == "best":
                    self.best_net = _copy(self.net.state_dict())
        at.epoch, at.step, at.loss_sum = at.epoch + 1, 0, 0.0

    # Checkpoints: safetensors, with the progress as JSON in the header.

    def _path(self) -> Path | None:
        path = self.ctx.checkpoint
        if path is None:
            return None
        return path.with_name(f"{path.stem}-{self.goal.name}.safetensors")

    def _key(self) -> str:
        # What a checkpoint must agree in to be resumed. The folder ``ctx.scratch``
        # already stands for method, data and code.
        shapes = {n: list(p.shape) for n, p in self.net.state_dict().items()}
        return dumps({"recipe": self.recipe, "shapes": shapes, "seed": self.ctx.seed})

    def _save(self, *, now: bool) -> None:
        path = self._path()
        if path is None:
            return
        if not now and time.monotonic() - self.saved_at < SAVE_SECONDS:
            return
        self._check()
        tensors = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_net.items()}
        tensors |= {f"goal.{k}": v for k, v in self.goal.state().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
        # Dropout draws from the global generator, augmentation from ``noise``: with
        # both states the resumed run draws the same numbers.
        tensors["rng.cpu"] = torch.get_rng_state()
        tensors["rng.noise"] = self.noise.get_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        header = {"key": self._key(), "at": json.dumps(vars(self.at))}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and renamed: a kill in between leaves the older checkpoint
        # whole.
        half_written = path.with_suffix(".tmp")
        save_file(_copy(tensors), half_written, metadata=header)
        half_written.replace(path)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        path = self._path()
        if path is None or not path.is_file():
            return
        try:
            header, tensors = read_header(path), read_tensors(path)
        except BenchError:
            return  # half a file of another time: begin again
        if header.get("key") != self._key():
            return
        self.at = _Progress(**json.loads(header["at"]))
        self.net.load_state_dict(_under("net.", tensors))
        self.best_net = _under("best.", tensors)
        states: dict[int, dict[str, Any]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, key = name.split(".", 1)
            states.setdefault(int(index), {})[key] = value
        # Only the state of the parameters is restored. The groups (rate, momentum) are
        # those of the recipe, and ``_run_epoch`` sets the rate.
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**whole, "state": states})
        torch.set_rng_state(tensors["rng.cpu"])
        self.noise.set_state(tensors["rng.noise"])
        if "rng.cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        self.goal.restore(self.net, _under("goal.", tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
    }


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Cloned, since safetensors refuses tensors that share memory.
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _device(net: nn.Module) -> torch.device:
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device

"""Accuracy by lm-eval's own code on a model in memory: options, protocol, data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.core import BenchError, Measurement, Model, Unsupported
from harness.toolkit import devices
from tasks._lm_eval import task_index


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """What every task of lm-eval has; the subclass says which task it is.

    Args:
        num_fewshot: Solved examples before each question; None is the task's own rule.
        limit: Read only so many examples of each task; None reads all.
        batch_size: Requests a forward pass; fixed, so that numbers repeat.
        add_bos: Whether each text starts with the tokenizer's begin token; None is the
            tokenizer's own rule.
        bootstrap_iters: Resamples behind the standard error of what is no mean.
    """

    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8
    add_bos: bool | None = None
    bootstrap_iters: int = 100_000

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("num_fewshot", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"{name} {value} is not {least} or more (leave it out for "
                    f"{'all' if name == 'limit' else 'the rule of the task'})"
                )
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} is not 1 or more")
        if self.bootstrap_iters < 0:
            raise ValueError(f"bootstrap_iters {self.bootstrap_iters} is below 0")

    def task(self) -> tuple[str, Any]:
        """The task's name, and what lm-eval loads it by: a name or a configuration."""
        raise NotImplementedError

    def versions(self) -> dict[str, Any]:
        """Each task of lm-eval behind this one, with its version."""
        raise NotImplementedError

    def manager(self) -> Any:
        """lm-eval's task manager that knows the task."""
        raise NotImplementedError

    def reads(self) -> str:
        """The data sets that it reads, for a person."""
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two numbers to be comparable."""
        bos = {None: "the tokenizer's own rule", True: "always", False: "never"}
        return {
            "harness": f"lm-eval {task_index.release()}",
            "tasks": self.versions(),
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
            "bos": bos[self.add_bos],
            "chat_template": None,
        }

    def fetch(self) -> None:
        """Have the data on this machine, downloaded where it is missing.

        Raises:
            BenchError: If it cannot be had; says what to do.
        """
        from tasks._lm_eval import evaluate

        evaluate.load(self)

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield every metric that lm-eval returns, with one value an example.

        Args:
            model: A causal language model with a tokenizer.

        Yields:
            ``acc``, ``acc_norm`` ... with their standard errors; for a group, those of
            its tasks under ``task/metric``.

        Raises:
            BenchError: If the data cannot be had, or the tokenizer lacks a token.
            Unsupported: If the model or the task is of another kind.
            OutOfMemoryError: If a batch does not fit.
        """
        _check(model, add_bos=self.add_bos)
        from tasks._lm_eval import evaluate

        try:
            yield from evaluate.measure(self, model)
        except Exception as why:
            if not devices.out_of_memory(why):
                raise
            import torch

            raise torch.OutOfMemoryError(
                f"a batch of {self.batch_size} requests does not fit: set a smaller "
                f"batch_size for {self.task()[0]} ({str(why).splitlines()[0][:120]})"
            ) from why


def digest(parts: dict[str, str]) -> str:
    """One fingerprint of several data sets; that of a single one stays readable.

    >>> digest({"arc_easy": "1a2b"})
    '1a2b'
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    joined = "|".join(f"{name}={parts[name]}" for name in sorted(parts))
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()[:16]}"


def _check(model: Model, *, add_bos: bool | None) -> None:
    """Refuse what lm-eval would stumble over after minutes, or score without sense."""
    if model.tokenizer is None:
        raise Unsupported(f"{model.name} has no tokenizer, and lm-eval asks in text")
    if not hasattr(model.net, "config"):
        raise Unsupported(
            f"{model.name} is no network of transformers, which lm-eval needs"
        )
    if model.tokenizer.eos_token_id is None:
        raise BenchError(
            f"the tokenizer of {model.name} has no end token, which lm-eval puts "
            "before a text without context: set eos_token in its tokenizer_config.json"
        )
    if add_bos and model.tokenizer.bos_token_id is None:
        raise BenchError(
            f"add_bos: the tokenizer of {model.name} has no begin token; leave add_bos "
            "out, or set bos_token in its tokenizer_config.json"
        )

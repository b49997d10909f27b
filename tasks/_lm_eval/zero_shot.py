"""Accuracy by lm-eval's own code on a model in memory: options, protocol, data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.core import BenchError, Measurement, Model, Unsupported
from harness.toolkit import devices, tokenizer_needs
from tasks._lm_eval import generation, task_index


@dataclass(frozen=True, kw_only=True)
class ZeroShot(generation.Generation):
    """The options that all tasks of lm-eval share; a subclass names the task.

    Args:
        num_fewshot: Number of solved examples before each question; None takes the
            number that the task itself sets, or 0.
        limit: Number of examples of each task that are read, from the first on; None
            reads all.
        batch_size: Requests in one forward pass; fixed, so that numbers repeat.
        add_bos: Whether each text starts with the tokenizer's begin token; None follows
            the tokenizer's own rule.
        bootstrap_iters: Resamples for the standard error of a metric that is not a
            mean.
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
        if wrong := list(self.faults()):
            raise ValueError("; ".join(wrong))

    def task(self) -> tuple[str, Any]:
        """The task's name, and what lm-eval loads it by: a name or a configuration."""
        raise NotImplementedError

    def versions(self) -> dict[str, Any]:
        """Each task of lm-eval behind this one, with its version."""
        raise NotImplementedError

    def default_shots(self) -> dict[str, int | None]:
        """Each task with the number of solved examples that it sets itself, or None."""
        return dict.fromkeys(self.versions())

    def writes(self) -> dict[str, bool | None]:
        """Each task -> whether its answers are written; None if only loading tells."""
        return dict.fromkeys(self.versions(), False)

    def shots(self) -> dict[str, int]:
        """Each task with the number of solved examples that lm-eval will take.

        A task that sets 0 itself keeps 0, whatever the option says.
        """
        asked = self.num_fewshot
        return {
            name: (own if asked is None or own == 0 else asked) or 0
            for name, own in self.default_shots().items()
        }

    def check_data(self) -> None:
        """Refuse local data files that would be misread."""

    def manager(self) -> Any:
        """lm-eval's task manager that knows the task."""
        raise NotImplementedError

    def reads(self) -> str:
        """The data sets that it reads, for a person."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """The identity of the data."""
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two numbers to be comparable."""
        bos = {None: "the tokenizer's own rule", True: "always", False: "never"}
        shots = self.shots()
        chat: Any = self.apply_chat_template or None
        return {
            "harness": f"lm-eval {task_index.release()}",
            "tasks": self.versions(),
            # One number where all tasks have the same, which is the usual case.
            "num_fewshot": min(shots.values())
            if len({*shots.values()}) == 1
            else shots,
            "limit": self.limit,
            "bos": bos[self.add_bos],
            "empty_context": "the begin token, or the end token if there is none",
            "long_prompts": "cut from the left, counted",
            "chat_template": "the tokenizer's own" if chat is True else chat,
            "system_instruction": self.system_instruction,
            "fewshot_as_multiturn": self.multiturn if chat else None,
            **self.generation(),
        }

    def fetch(self) -> None:
        """Download the data where it is missing.

        Raises:
            BenchError: If it is not available; says what to do.
        """
        from tasks._lm_eval import evaluate

        evaluate.load(self)

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield every metric that lm-eval returns, with one value an example.

        Args:
            model: A causal language model with a tokenizer.

        Yields:
            ``acc``, ``acc_norm`` ... with their standard errors; for a group, those of
            its tasks under ``task/metric``. ``truncated_prompts`` counts the examples
            whose prompt was longer than the model reads, so that its start was cut.
            With ``think_end_token``, ``unfinished_reasoning`` counts the answers
            without it, which are scored whole. With ``repeats``, each metric has a
            ``METRIC_spread``, the standard deviation over the repeats.

        Raises:
            BenchError: If the data is not available, or the tokenizer lacks a token.
            Unsupported: If the model or the task is of another kind.
            OutOfMemoryError: If a batch does not fit.
        """
        _check(model, self)
        from tasks._lm_eval import evaluate

        try:
            yield from evaluate.measure(self, model)
        except Exception as why:
            # The same error class as before, so that the trial is treated as out of
            # memory, with a sentence that says which option helps.
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


def _check(model: Model, task: ZeroShot) -> None:
    """Refuse a model that lm-eval would fail on after minutes, or score wrongly."""
    if model.tokenizer is None:
        raise Unsupported(f"{model.name} has no tokenizer, and lm-eval asks in text")
    if not hasattr(model.net, "config"):
        raise Unsupported(
            f"{model.name} is not a network of transformers, which lm-eval needs"
        )
    if model.tokenizer.eos_token_id is None:
        raise BenchError(
            f"the tokenizer of {model.name} has no end token, which lm-eval puts "
            "before a text without context: set eos_token in its tokenizer_config.json"
        )
    has = tokenizer_needs.of_tokenizer(model.tokenizer)
    if why := tokenizer_needs.refusal(model.name, has, task):
        raise Unsupported(why)
    if task.apply_chat_template and task.system_instruction:
        _check_system_turn(model, task)


def _check_system_turn(model: Model, task: ZeroShot) -> None:
    """Refuse a template without a system turn: lm-eval would leave the text out."""
    from jinja2.exceptions import TemplateError

    text, named = str(task.system_instruction), task.apply_chat_template
    turns = [
        {"role": "system", "content": text},
        {"role": "user", "content": "Hello"},
    ]
    templates = tokenizer_needs.of_tokenizer(model.tokenizer).templates
    template = templates["default" if named is True else str(named)]
    try:
        written = model.tokenizer.apply_chat_template(
            turns, chat_template=template, tokenize=False
        )
    except TemplateError:
        written = ""
    if text.strip() not in written:
        raise Unsupported(
            f"the chat template of {model.name} has no system turn: leave "
            "system_instruction out, or write it into the prompts of the task"
        )

"""How a model is asked in a chat and writes its answers: options and their rules."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.core import Measurement

# lm-eval's own seed of torch; its other seeds are the same where `seed` is given.
TORCH_SEED = 1234
_LARGEST_SEED = 2**32 - 1  # that numpy takes
# Options that only a task whose answers are written reads, with their defaults.
_OF_WRITING: dict[str, Any] = {
    "max_gen_toks": None,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "repeats": 1,
    "think_end_token": None,
}
_OPTIONS = {
    **_OF_WRITING,
    "chat_template_args": None,
    "enable_thinking": None,
    "seed": None,
}
# What transformers and lm-eval themselves pass to a chat template.
_RESERVED = (
    *("add_generation_prompt", "bos_token", "chat_template", "continue_final_message"),
    *("conversation", "documents", "eos_token", "messages", "tokenize", "tools"),
)
_ARGUMENTS = (
    "max_gen_toks",
    "temperature",
    "top_p",
    "top_k",
)  # of lm-eval's generation


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Options of chat templates, of reasoning and of answers that the model writes.

    Args:
        apply_chat_template: Whether prompts are written in the tokenizer's chat
            template; a text names one of several templates.
        system_instruction: A text before each prompt: the system turn of a chat.
        fewshot_as_multiturn: Whether solved examples are turns of the chat; None is
            true with a chat template, as on lm-eval's command line.
        enable_thinking: Whether the chat template asks the model to reason before it
            answers; None leaves it to the template.
        chat_template_args: Other variables of the chat template with their values, as
            lm-eval's option of this name: ``{thinking: true}`` for DeepSeek V3.1.
        think_end_token: What ends the reasoning, as text or as the id of a token. An
            answer is what follows its last occurrence.
        max_gen_toks: Most tokens of an answer that the model writes, its reasoning
            included; None is the task's own, or lm-eval's 256.
        temperature: Divides the logits before a token is drawn; 0 takes the likeliest
            token; None is the task's own, or 0.
        top_p: Draw from the likeliest tokens whose probabilities sum to this, in
            (0, 1].
        top_k: Draw from this many likeliest tokens.
        repeats: Evaluations with different draws, whose mean and spread are reported.
        seed: Of solved examples that are drawn and of answers that are drawn; repeat
            number i adds i - 1. None takes lm-eval's own seeds.
    """

    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    enable_thinking: bool | None = None
    # Left out of the hash, since a mapping has none; two tasks still compare by it.
    chat_template_args: dict[str, Any] | None = field(default=None, hash=False)
    think_end_token: str | int | None = None
    max_gen_toks: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repeats: int = 1
    seed: int | None = None

    def writes(self) -> dict[str, bool | None]:
        """Each task -> whether its answers are written; None if only loading tells."""
        raise NotImplementedError

    def samples(self) -> bool:
        """Whether a task draws the tokens of its answers by its own rule."""
        return False

    @property
    def multiturn(self) -> bool:
        """Whether solved examples are turns of the chat."""
        chat = bool(self.apply_chat_template)
        return chat if self.fewshot_as_multiturn is None else self.fewshot_as_multiturn

    def generation(self) -> dict[str, Any]:
        """The options of reasoning and writing that differ from their defaults.

        Only these enter the protocol, so that a trial without them keeps its id.
        """
        return {
            name: getattr(self, name)
            for name, default in _OPTIONS.items()
            if getattr(self, name) != default
        }

    def arguments(self) -> dict[str, Any]:
        """The options as lm-eval's ``gen_kwargs``, which replace those of a task."""
        said = self.generation()
        found = {name: said[name] for name in _ARGUMENTS if name in said}
        if self.temperature is not None:
            # A task that sets `do_sample` itself would keep it.
            found["do_sample"] = self.temperature > 0
        return found

    def faults(self) -> Iterator[str]:
        """What is wrong with the options, one sentence each.

        Yields:
            Values out of range, options without an effect, and combinations that
            lm-eval refuses or that would give a number other than its protocol says.
        """
        yield from self._out_of_range()
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            yield "fewshot_as_multiturn needs apply_chat_template: true"
        if self.enable_thinking is not None and not self.apply_chat_template:
            yield "enable_thinking is for chat templates: set apply_chat_template: true"
        if self.enable_thinking and self.think_end_token is None:
            yield (
                "enable_thinking: true needs think_end_token, the text that ends the "
                "reasoning ('</think>' of Qwen3): what is written before it is not "
                "scored"
            )
        if self.chat_template_args is not None:
            yield from self._wrong_args(self.chat_template_args)
        yield from self._without_effect()

    def _wrong_args(self, given: Mapping[str, Any]) -> Iterator[str]:
        if not self.apply_chat_template:
            yield (
                "chat_template_args is for chat templates: set apply_chat_template: "
                "true"
            )
        if not given:
            yield "chat_template_args names no variable: leave it out"
        if "enable_thinking" in given:
            yield (
                "chat_template_args: enable_thinking is an option of its own, which "
                "also says whether reasoning is scored: write it beside"
            )
        for name in sorted(given.keys() & {*_RESERVED}):
            yield f"chat_template_args: {name} is set by the task itself: leave it out"

    def _without_effect(self) -> Iterator[str]:
        writes, said = self.writes(), self.generation()
        silent = sorted(name for name, written in writes.items() if written is False)
        if self.enable_thinking and silent:
            yield (
                "enable_thinking: true needs answers that the model writes, and "
                f"{silent[0]} compares likelihoods of given answers: leave it out"
            )
        elif len(silent) == len(writes):
            yield from (
                f"{name} has no effect on {silent[0]}, which compares likelihoods of "
                "given answers: leave it out"
                for name in said
                if name in _OF_WRITING
            )
        elif not (self.samples() if self.temperature is None else self.temperature):
            yield from (
                f"{name} {value} has no effect where the likeliest token is written: "
                "set a temperature above 0, or leave it out"
                for name, value in said.items()
                if name in ("top_p", "top_k", "repeats")
            )

    def _out_of_range(self) -> Iterator[str]:
        for name in ("max_gen_toks", "top_k", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield f"{name} {value} is not 1 or more"
        if self.temperature is not None and self.temperature < 0:
            said = f"temperature {self.temperature} is below 0"
            yield f"{said} (0 takes the likeliest token)"
        if self.top_p is not None and not 0 < self.top_p <= 1:
            yield f"top_p {self.top_p} is not in (0, 1]"
        if self.seed is not None and not 0 <= self.seed <= _LARGEST_SEED:
            yield f"seed {self.seed} is not in 0 to {_LARGEST_SEED}"


def over_repeats(runs: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """The mean of each metric over repeated evaluations, and its spread.

    Args:
        runs: The measurements of each evaluation, which differ in their random draws
            only.

    Returns:
        Each metric once: the mean over the evaluations, of each example too. The
        standard error is over examples. ``METRIC_spread`` is the sample standard
        deviation of a metric over the evaluations, and its ``n`` is their number.
    """
    if len(runs) == 1:
        return list(runs[0])
    found: list[Measurement] = []
    for same in zip(*runs, strict=True):
        found.append(_mean(same))
        if same[0].goal != "none":
            name, comma, chosen = same[0].metric.partition(",")
            found.append(
                Measurement(
                    metric=f"{name}_spread{comma}{chosen}",
                    value=statistics.stdev(one.value for one in same),
                    n=len(same),
                )
            )
    return found


def _mean(same: Sequence[Measurement]) -> Measurement:
    value = statistics.fmean(one.value for one in same)
    outcomes = [one.values for one in same if one.values is not None]
    errors = [one.stderr for one in same if one.stderr is not None]
    # An upper bound: the draws differ, which makes the mean more precise.
    stderr = statistics.fmean(errors) if len(errors) == len(same) else None
    values = None
    if len(outcomes) == len(same):
        values = [statistics.fmean(draws) for draws in zip(*outcomes, strict=True)]
        is_mean = math.isclose(statistics.fmean(values), value, abs_tol=1e-12)
        if is_mean and len(values) > 1:
            stderr = statistics.stdev(values) / math.sqrt(len(values))
    return replace(same[0], value=value, stderr=stderr, values=values)

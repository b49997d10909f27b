"""Loads lm-eval's tasks, runs its evaluation and reads the results."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import random
import warnings
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import lm_eval.evaluator
import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from harness.core import BenchError, Goal, Measurement, Model, NotFinite, Unsupported
from harness.toolkit import devices
from tasks._lm_eval import generation, in_memory

if TYPE_CHECKING:
    from tasks._lm_eval.zero_shot import ZeroShot

_LOGGERS = ("lm_eval", "datasets", "transformers", "huggingface_hub", "evaluate")


@dataclass(slots=True)
class Loaded:
    """A task of lm-eval that is loaded once and evaluated for many networks.

    Args:
        roots: The task or group objects, as ``simple_evaluate`` takes them.
        tasks: Every task below them, by name.
        manager: lm-eval's task manager that made them.
        tokenizer: Of ``in_memory.tokenizer_for``; None before a model is known.
        tokens: What the tokenizer made of each text so far.
    """

    roots: list[Any]
    tasks: dict[str, Any]
    manager: Any
    tokenizer: Any = None
    tokens: dict[Any, Any] = field(default_factory=dict)


def load(task: ZeroShot) -> Loaded:
    """Load lm-eval's task objects with their data, which is downloaded if missing.

    Args:
        task: The task and its options, which name what lm-eval loads.

    Returns:
        The objects, without requests yet.

    Raises:
        BenchError: If the data or a package that the task needs is not available, or
            lm-eval would not do what the protocol says.
        Unsupported: If the task runs code that the model writes, or shows it images.
    """
    name, spec = task.task()
    task.check_data()
    manager = task.manager()
    try:
        with quiet():
            found = manager.load([spec])
    except ModuleNotFoundError as why:
        raise BenchError(
            f"task {name} of lm-eval needs the package {why.name}: install it"
        ) from why
    except (OSError, ValueError, RuntimeError) as why:
        raise BenchError(_missing(task, name, why)) from why
    for one, made in found["tasks"].items():
        if getattr(made, "UNSAFE_CODE", False):
            raise Unsupported(f"task {one} runs code that the model writes; not here")
        if getattr(made, "MULTIMODAL", False):
            raise Unsupported(f"task {one} shows the model more than text")
        # lm-eval would build the requests of a task again for every network.
        _once(made)
    _check_shots(task, found["tasks"])
    # A tag has no object of its own: its tasks are given one by one.
    root = found.get("groups", {}).get(name)
    roots = [root] if root is not None else list(found["tasks"].values())
    return Loaded(roots=roots, tasks=found["tasks"], manager=manager)


def _check_shots(task: ZeroShot, found: Mapping[str, Any]) -> None:
    """Refuse to evaluate with another number of examples than the protocol says."""
    said = task.shots()
    for name, made in found.items():
        default = made.get_config("num_fewshot")
        # lm-eval's own rule: a task that sets 0 keeps 0.
        done = default if task.num_fewshot is None or default == 0 else task.num_fewshot
        if name in said and said[name] != (done or 0):
            raise BenchError(
                f"task {name} of lm-eval takes {done or 0} solved examples where its "
                f"protocol says {said[name]}; set num_fewshot"
            )


@lru_cache(maxsize=16)
def _shared(task: ZeroShot, tokenizer: Any, data: str) -> Loaded:
    """What all networks of a tokenizer share, for as long as the data is the same."""
    del tokenizer, data  # part of the key
    return load(task)


def measure(task: ZeroShot, model: Model) -> list[Measurement]:
    """Run lm-eval's ``simple_evaluate`` and read its results.

    Args:
        task: The task and its options.
        model: A causal language model.

    Returns:
        One measurement for each metric, filter and task, and ``truncated_prompts``.
    """
    loaded = _shared(task, model.tokenizer, task.fingerprint())
    if loaded.tokenizer is None:
        loaded.tokenizer = in_memory.tokenizer_for(
            model, add_bos=task.add_bos, template=task.apply_chat_template
        )
    return generation.over_repeats(
        [_evaluated(task, model, loaded, draw) for draw in range(task.repeats)]
    )


def _evaluated(
    task: ZeroShot, model: Model, loaded: Loaded, draw: int
) -> list[Measurement]:
    """The measurements of one evaluation, with the random numbers of one draw."""
    with quiet():
        # lm-eval has one object for each network; the loaded task, the tokenizer and
        # the tokens serve all networks.
        lm = in_memory.InMemory(
            model,
            loaded.tokenizer,
            loaded.tokens,
            batch_size=task.batch_size,
            add_bos_token=task.add_bos,
            enable_thinking=task.enable_thinking,
            chat_template_args=dict(task.chat_template_args or {}),
            think_end_token=task.think_end_token,
        )
        results = lm_eval.evaluator.simple_evaluate(
            model=lm,
            tasks=list(loaded.roots),
            num_fewshot=task.num_fewshot,
            limit=task.limit,
            bootstrap_iters=task.bootstrap_iters,
            task_manager=loaded.manager,
            apply_chat_template=bool(task.apply_chat_template),
            system_instruction=task.system_instruction,
            fewshot_as_multiturn=task.multiturn,
            gen_kwargs=task.arguments() or None,
            **_seeds(task.seed, draw),
        )
    asked = {name: made.instances for name, made in loaded.tasks.items()}
    counts = in_memory.truncated(lm.cut, asked)
    name = task.task()[0]
    # Only a choice between given answers has a chance level.
    choosing = {
        one
        for one, made in loaded.tasks.items()
        if made.OUTPUT_TYPE == "multiple_choice"
    }
    found = [*_measurements(name, results, choosing), *_truncated(name, counts)]
    if task.think_end_token is not None:
        unfinished = float(lm.unfinished)
        found.append(
            Measurement(metric="unfinished_reasoning", value=unfinished, n=lm.written)
        )
    return found


def _seeds(seed: int | None, draw: int) -> dict[str, int]:
    """lm-eval's seeds: its own, or one for all; each draw has another one of torch."""
    if seed is None:
        return {"torch_random_seed": generation.TORCH_SEED + draw}
    names = ("random_seed", "numpy_random_seed", "fewshot_random_seed")
    return {**dict.fromkeys(names, seed), "torch_random_seed": seed + draw}


def _truncated(
    root: str, counts: Mapping[str, tuple[int, int]]
) -> Iterator[Measurement]:
    """How many prompts were cut: in all, and of each member of a group with any."""
    cut, documents = (sum(column) for column in zip(*counts.values(), strict=True))
    yield Measurement(metric="truncated_prompts", value=float(cut), n=documents)
    for name, (some, n) in counts.items():
        if some and name != root:
            yield Measurement(
                metric=f"{name}/truncated_prompts", value=float(some), n=n
            )


def _once(task: Any) -> None:
    """Let a task build its requests the first time, and only empty them afterwards."""
    build = task.build_all_requests

    def build_or_empty(**options: Any) -> None:
        if not getattr(task, "_instances", None):
            build(**options)
        for instance in task.instances:
            # What the network before answered must not count for this one.
            instance.resps, instance.filtered_resps = [], {}

    task.build_all_requests = build_or_empty


def _measurements(
    root: str, results: Mapping[str, Any], choosing: Collection[str]
) -> Iterator[Measurement]:
    """lm-eval's results, group first; a member's metrics are called ``task/metric``.

    Args:
        root: The task or group that was asked for.
        results: What ``simple_evaluate`` returned.
        choosing: Names of the tasks that choose one of several answers.

    Yields:
        One measurement for each metric and filter of each task.

    Raises:
        NotFinite: If a number is not finite.
    """
    for name, found in results["results"].items():
        goals = results["higher_is_better"].get(name) or {}
        samples = results["samples"].get(name, [])
        for key, value in found.items():
            # lm-eval's keys are METRIC,FILTER, beside keys such as `alias` without a
            # filter.
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, str):
                continue
            shown = metric if chosen == "none" else f"{metric},{chosen}"
            shown = shown if name == root else f"{name}/{shown}"
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise NotFinite(f"lm-eval gives {value!r} as {shown} of task {name}")
            stderr = found.get(f"{metric}_stderr,{chosen}")
            known = isinstance(stderr, int | float) and math.isfinite(stderr)
            yield Measurement(
                metric=shown,
                value=float(value),
                goal=_goal(goals.get(metric)),
                stderr=float(stderr) if known else None,  # lm-eval gives N/A or NaN
                n=found.get("sample_len"),
                values=_values(samples, metric, chosen),
                chance=_chance(samples, metric) if name in choosing else None,
            )


def _chance(samples: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """The mean share of right answers if each answer is as likely.

    Only of the two accuracies of multiple choice. With ``acc_mutual_info`` lm-eval asks
    for each answer twice, so that the number of its requests is not that of answers.
    """
    if metric not in ("acc", "acc_norm") or not samples:
        return None
    if any("acc_mutual_info" in one for one in samples):
        return None
    # One response for each answer: questions may differ in their number of answers.
    return math.fsum(1 / len(one["resps"]) for one in samples) / len(samples)


def _goal(higher_is_better: bool | None) -> Goal:
    if higher_is_better is None:
        return "none"
    return "max" if higher_is_better else "min"


def _values(
    samples: Iterable[Mapping[str, Any]], metric: str, chosen: str
) -> list[float] | None:
    """The outcome of each example; None where it is a pair or a text."""
    found = [s.get(metric) for s in samples if s["filter"] == chosen]
    numbers = [float(v) for v in found if isinstance(v, int | float)]
    return numbers if found and len(numbers) == len(found) else None


def _missing(task: ZeroShot, name: str, why: Exception) -> str:
    reason = (str(why).strip() or type(why).__name__).splitlines()[0][:160]
    return (
        f"the data of task {name} of lm-eval, {task.reads()}, is not available: "
        f"{reason}. Run `shrinkgrid prepare GRID` on a machine with a network, or set "
        "HF_DATASETS_CACHE to a copy of a cache"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's bars, warnings and prints off the screen, and start no process.

    lm-eval describes the machine with subprocesses, which takes a second a call; this
    is left out, since our rows have that already. lm-eval also seeds the global random
    generators; they are restored.
    """
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    patched = [
        (tqdm, "__init__", _without_bar(tqdm.__init__)),
        (lm_eval.evaluator, "add_env_info", lambda results: None),
        (lm_eval.evaluator, "get_git_commit_hash", lambda: None),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_random_state())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_environment("DISABLE_MULTIPROC", "1"))
        # Each patch is registered for its undoing before the next one, so that an error
        # leaves none behind.
        for owner, name, value in patched:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        for name, level in before.items():
            logging.getLogger(name).setLevel(logging.ERROR)
            stack.callback(logging.getLogger(name).setLevel, level)
        yield


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    before = random.getstate(), np.random.get_state()
    device = devices.pick()
    # Naming the device limits what is saved; the CPU's generator always is.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _without_bar(create: Callable[..., None]) -> Callable[..., None]:
    def disabled(self: Any, *args: Any, **options: Any) -> None:
        create(self, *args, **options | {"disable": True})

    return disabled


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

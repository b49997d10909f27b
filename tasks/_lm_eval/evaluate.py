"""lm-eval at work: one place that imports it, loads its tasks and runs its code."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import lm_eval.evaluator
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from harness.core import BenchError, Goal, Measurement, Model, NotFinite, Unsupported

if TYPE_CHECKING:
    from tasks._lm_eval.zero_shot import ZeroShot

_LOGGERS = ("lm_eval", "datasets", "transformers", "huggingface_hub", "evaluate")


@dataclass(slots=True)
class Loaded:
    """A task of lm-eval that is loaded once and asked often.

    Args:
        roots: The task or group objects, as ``simple_evaluate`` takes them.
        tasks: Every task below them, by name.
        manager: lm-eval's task manager that made them.
        tokens: What the tokenizer made of each text so far.
    """

    roots: list[Any]
    tasks: dict[str, Any]
    manager: Any
    tokens: dict[Any, Any] = field(default_factory=dict)


class InMemory(HFLM):
    """lm-eval's own model class around a network in memory.

    Texts are tokenised once for all networks that share a tokenizer, bars are off, and
    a number that is not finite fails instead of being argued over by ``argmax``.
    """

    def __init__(self, model: Model, task: ZeroShot, tokens: dict[Any, Any]) -> None:
        self._tokens = tokens
        super().__init__(
            pretrained=_Net(model.net),
            tokenizer=model.tokenizer,
            backend="causal",
            batch_size=task.batch_size,
            add_bos_token=task.add_bos,
        )

    def tok_encode(self, string: str, *args: Any, **options: Any) -> list[int]:
        """As lm-eval's, remembered."""
        key = (string, args, tuple(options.items()))
        if key not in self._tokens:
            self._tokens[key] = super().tok_encode(string, *args, **options)
        known: list[int] = self._tokens[key]
        return known

    def _encode_pair(self, context: str, continuation: str) -> Any:
        key = (context, continuation)
        if key not in self._tokens:
            self._tokens[key] = super()._encode_pair(context, continuation)
        return self._tokens[key]

    def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
        found = super()._loglikelihood_tokens(requests, **options)
        if not all(math.isfinite(value) for value, _ in found):
            raise NotFinite("the log-likelihood of an answer is not finite")
        return found


class _Net:
    """What lm-eval asks of a network, and no more: it would tie weights anew."""

    def __init__(self, net: nn.Module) -> None:
        self.config: Any = net.config
        self.device = next(net.parameters()).device
        self.dtype = next(net.parameters()).dtype
        self.generate: Any = getattr(net, "generate", None)
        self.name_or_path = ""
        self._net = net

    def __call__(self, ids: Tensor) -> Any:
        return self._net(ids)


def load(task: ZeroShot) -> Loaded:
    """lm-eval's task objects with their data, fetched where it is missing.

    Args:
        task: Names the task.

    Returns:
        The objects, without requests yet.

    Raises:
        BenchError: If the data cannot be had, or a package that the task needs.
        Unsupported: If the task runs code of the model's, or shows it images.
    """
    name, spec = task.task()
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
        _once(made)
    root = found.get("groups", {}).get(name)
    roots = [root] if root is not None else list(found["tasks"].values())
    return Loaded(roots=roots, tasks=found["tasks"], manager=manager)


@lru_cache(maxsize=16)
def _shared(task: ZeroShot, tokenizer: Any) -> Loaded:
    """What a bundle's ratios share; the tokenizer keeps those of two models apart."""
    return load(task)


def measure(task: ZeroShot, model: Model) -> list[Measurement]:
    """Run lm-eval's ``simple_evaluate`` and read its results.

    Args:
        task: The task and its options.
        model: A causal language model.

    Returns:
        One measurement a metric, filter and task.
    """
    loaded = _shared(task, model.tokenizer)
    with quiet():
        results = lm_eval.evaluator.simple_evaluate(
            model=InMemory(model, task, loaded.tokens),
            tasks=list(loaded.roots),
            num_fewshot=task.num_fewshot,
            limit=task.limit,
            bootstrap_iters=task.bootstrap_iters,
            task_manager=loaded.manager,
        )
    return list(_measurements(task.task()[0], results))


def _once(task: Any) -> None:
    """Let a task build its requests the first time, and only empty them afterwards."""
    build = task.build_all_requests

    def build_or_empty(**options: Any) -> None:
        if not getattr(task, "_instances", None):
            build(**options)
        for instance in task.instances:
            instance.resps, instance.filtered_resps = [], {}

    task.build_all_requests = build_or_empty


def _measurements(root: str, results: Mapping[str, Any]) -> Iterator[Measurement]:
    """lm-eval's results, group first; a member's metrics are called ``task/metric``."""
    for name, found in results["results"].items():
        goals = results["higher_is_better"].get(name) or {}
        samples = results["samples"].get(name, [])
        for key, value in found.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, str):
                continue
            stderr = found.get(f"{metric}_stderr,{chosen}")
            values = _values(samples, metric, chosen)
            shown = metric if chosen == "none" else f"{metric},{chosen}"
            yield Measurement(
                metric=shown if name == root else f"{name}/{shown}",
                value=float(value),
                goal=_goal(goals.get(metric)),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                n=found.get("sample_len"),
                values=values,
            )


def _goal(higher_is_better: bool | None) -> Goal:
    if higher_is_better is None:
        return "none"
    return "max" if higher_is_better else "min"


def _values(
    samples: Iterable[Mapping[str, Any]], metric: str, chosen: str
) -> list[float] | None:
    """The outcome of each example; None where it is no number (a pair, a text)."""
    found = [s.get(metric) for s in samples if s["filter"] == chosen]
    numbers = [float(v) for v in found if isinstance(v, int | float)]
    return numbers if found and len(numbers) == len(found) else None


def _missing(task: ZeroShot, name: str, why: Exception) -> str:
    reason = (str(why).strip() or type(why).__name__).splitlines()[0][:160]
    return (
        f"task {name} of lm-eval cannot have its data, {task.reads()}: {reason}. Run "
        "`shrinkgrid prepare GRID` where there is a network, or set HF_DATASETS_CACHE "
        "to a copy of a cache"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's bars, warnings and prints off the screen, and its forks away.

    Its look at the machine (a second of subprocesses a call) is left out: our rows say
    where they were made.
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
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(_environment("DISABLE_MULTIPROC", "1"))
        for owner, name, value in patched:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        for name, level in before.items():
            logging.getLogger(name).setLevel(logging.ERROR)
            stack.callback(logging.getLogger(name).setLevel, level)
        yield


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

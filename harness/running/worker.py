"""One bundle: load once, fit once, compress once a ratio, evaluate, append at once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from harness.core import Context, Measurement, Model, NotFinite
from harness.planning.messages import Built, Event, Job, took
from harness.planning.plan import Artifact, configured
from harness.planning.trial import Trial, digest
from harness.registry import facts, find
from harness.running import rows, time_limit
from harness.running.artifacts import (
    calibration,
    load_model,
    refuse_full_disk,
    refuse_partial,
    same_data,
    seed_everything,
    task_data,
)
from harness.running.failures import ArtifactFailed, Failure, TimedOut, classify
from harness.toolkit import devices, model_size
from results.errors import StoreError
from results.storage.leases import draining, forget, in_hand, is_held, recalled
from results.storage.store import Store, open_store


def run(job: Job, built: Sequence[Built] = ()) -> Iterator[Event]:
    """Run a job's trials one after the other, each committed before the next starts.

    Args:
        job: The bundle, its attempts and the store.
        built: How building the bundle's artifacts ended.

    Yields:
        ``started`` and ``ended`` for each trial that the driver does not ask back
        before it begins; ``returned`` for those; ``stopped`` if the store refused a
        row, and ``crashed`` if somebody took this worker for dead, after which nothing
        of the job runs.
    """
    devices.set_threads(int(job.bundle.resources.cpus))
    try:
        store = open_store(job.store)
        worker = _Worker(job=job, store=store, built=tuple(built))
        attempts = [(job.attempts[t.id], t.id) for t in job.bundle.trials]
        with in_hand(store, job.run, job.name, attempts):
            left = deque(job.bundle.trials)
            while left and not draining(store, job.run):
                trial = left.popleft()
                given = _give_back(store, job, left)
                if given:
                    yield Event(what="returned", trials=given)
                yield Event(what="started", trial=trial.id)
                yield worker.attempt(trial)
    except StoreError as why:
        yield Event(what="stopped", headline=str(why))
    except _GivenUp:
        gone = "its marker is gone: another driver took it for dead"
        yield Event(what="crashed", status="lost", error_class="infra", headline=gone)


class _GivenUp(Exception):
    """The driver took this worker for dead, and its trials run elsewhere."""


def _give_back(store: Store, job: Job, left: deque[Trial]) -> tuple[str, ...]:
    """Take out of ``left`` what the driver asked back; the ids of these trials."""
    if not left:
        return ()
    wanted = recalled(store, job.name)
    given = tuple(trial.id for trial in left if trial.id in wanted)
    if wanted:
        forget(store, f"{job.name}.back")
    for trial in [trial for trial in left if trial.id in wanted]:
        left.remove(trial)
    return given


def compressed(job: Job, built: Sequence[Built], trial: Trial) -> Model:
    """The compressed model of one trial, made as ``run`` makes it.

    Args:
        job: With the trial's bundle and the store.
        built: How building the bundle's artifacts ended.
        trial: One of the bundle's.

    Returns:
        The model around the compressed network.
    """
    worker = _Worker(job=job, store=open_store(job.store), built=tuple(built))
    worker._ready(trial)
    assert worker.model is not None
    return worker.model.with_net(worker._compressed(trial).net)


@dataclass(slots=True, kw_only=True)
class _Compressed:
    """A network at one ratio, measured."""

    ratio: float
    net: nn.Module
    size: model_size.Size
    seconds: float
    recorded: tuple[Measurement, ...]


@dataclass(slots=True, kw_only=True)
class _Worker:
    """The state that a bundle's trials share; each part is made when first needed."""

    job: Job
    store: Store
    built: tuple[Built, ...]
    broken: BaseException | None = None  # loading or fitting failed: all trials fail
    model: Model | None = None
    dense: model_size.Size | None = None
    coverage: float | None = None
    fitted: Any = None
    is_fitted: bool = False
    fit_seconds: float = 0.0
    fit_recorded: tuple[Measurement, ...] = ()
    current: _Compressed | None = None
    scratch: Path | None = None
    refused: dict[float, BaseException] = field(default_factory=dict)

    def attempt(self, trial: Trial) -> Event:
        """Execute one trial and commit its row, whatever happens in it."""
        device = devices.pick()
        devices.reset_peaks(device)
        started, began = datetime.now(UTC), time.perf_counter()
        row: dict[str, Any] = {}
        found: list[Measurement] = []
        failure = None
        first = not self.is_fitted
        before = None if self.current is None else self.current.ratio
        try:
            with time_limit.limit(self.job.bundle.resources.seconds):
                found = self._execute(trial, row)
        except StoreError:  # the run's trouble, not the trial's
            raise
        except (Exception, TimedOut) as error:  # every failure of a trial is a row
            refuse_full_disk(error, self.store)
            failure = classify(error)
            devices.release(device)
        row |= {
            "started_at": started,
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": devices.peak_memory(),
            "peak_device_bytes": devices.peak_device(device),
        }
        event = self._commit(trial, row, found, failure)
        if failure is not None:
            return event
        new_ratio = trial.ratio != before
        return replace(event, numbers=took(row, first=first, new_ratio=new_ratio))

    def _execute(self, trial: Trial, row: dict[str, Any]) -> list[Measurement]:
        if self.broken is not None:
            raise self.broken
        try:
            self._ready(trial)
        except StoreError:
            raise
        except (Exception, TimedOut) as error:
            self.broken = error
            raise
        row["fit_seconds"] = self.fit_seconds
        row |= rows.dense_columns(self.dense)
        made = self._compressed(trial)
        row["compress_seconds"] = made.seconds
        row |= rows.size_columns(made.size, self.dense)
        row["achieved_ratio"] = self._achieved(trial, made)
        row["coverage"] = self.coverage
        began = time.perf_counter()
        found = self._evaluate(trial, made.net)
        row["evaluate_seconds"] = time.perf_counter() - began
        # The task first: its first ranked number is the headline of the leaderboard.
        return [*found, *self.fit_recorded, *made.recorded]

    def _ready(self, trial: Trial) -> None:
        """Load and fit, the first time."""
        if self.model is None:
            for built in self.built:
                if built.error is not None:
                    raise ArtifactFailed(
                        f"{built.artifact} could not be built: {built.error}",
                        built.error_class or "bug",
                    )
            self.model = load_model(
                trial.model, trial.dtype, self.store, self._artifact("dense")
            )
            self.coverage = refuse_partial(trial, self.model)
            self.dense = model_size.size(self.model)
        if self.is_fitted:
            return
        method = configured("method", trial.method)
        if hasattr(method, "fit"):
            seed_everything(trial.seed, "fit")
            ctx = self._context(trial, "fit")
            began = time.perf_counter()
            self.fitted = method.fit(self.model, ctx)
            devices.synchronize(ctx.device)
            self.fit_seconds = time.perf_counter() - began
            self.fit_recorded = tuple(ctx.recorded)
        self.is_fitted = True

    def _artifact(self, kind: str) -> Artifact | None:
        return next((a for a in self.job.bundle.artifacts if a.kind == kind), None)

    def _context(self, trial: Trial, key: str) -> Context:
        assert self.model is not None
        statistics, dense = self._artifact("calibration"), self._artifact("dense")
        return Context(
            model=self.model,
            seed=trial.seed,
            device=devices.pick(),
            data=None if dense is None else task_data(trial.task),
            scratch=self._scratch(trial),
            calibrate=(
                None
                if statistics is None
                else lambda: calibration(statistics, self.store)
            ),
            checkpoint_key=key,
        )

    def _scratch(self, trial: Trial) -> Path:
        """A folder for checkpoints; one for all trials of a bundle, whoever runs it."""
        if self.scratch is None:
            known = trial.identity()
            name = digest([known[key] for key in ("method", "model", "seed")])
            self.scratch = self.store.scratch(f"{trial.method.name}-{name}")
        return self.scratch

    def _compressed(self, trial: Trial) -> _Compressed:
        """The network at the trial's ratio; the one before it is let go."""
        if trial.ratio in self.refused:
            raise self.refused[trial.ratio]
        if self.current is not None and self.current.ratio == trial.ratio:
            return self.current
        self.current = None
        try:
            self.current = self._compress(trial)
        except (Exception, TimedOut) as error:
            self.refused[trial.ratio] = error
            raise
        return self.current

    def _compress(self, trial: Trial) -> _Compressed:
        assert self.model is not None
        seed_everything(trial.seed, f"compress {trial.ratio!r}")
        ctx = self._context(trial, f"ratio-{trial.ratio!r}")
        method = configured("method", trial.method)
        began = time.perf_counter()
        net = method.compress(self.fitted, trial.ratio, ctx).to(ctx.device).eval()
        devices.synchronize(ctx.device)
        seconds = time.perf_counter() - began
        return _Compressed(
            ratio=trial.ratio,
            net=net,
            size=model_size.size(self.model.with_net(net)),
            seconds=seconds,
            recorded=tuple(ctx.recorded),
        )

    def _achieved(self, trial: Trial, made: _Compressed) -> float | None:
        assert self.model is not None
        assert self.dense is not None
        own = [m.value for m in made.recorded if m.metric == "achieved_ratio"]
        if own:
            return own[-1]
        plugin = find("method", trial.method.plugin)
        method = configured("method", trial.method)
        ratio_of = facts(plugin, method)["ratio_of"]
        return model_size.achieved(
            ratio_of, self.model, made.net, (self.dense, made.size)
        )

    def _evaluate(self, trial: Trial, net: nn.Module) -> list[Measurement]:
        assert self.model is not None
        same_data(trial.task)
        seed_everything(trial.seed, f"evaluate {trial.task.label}")
        found = list(configured("task", trial.task).evaluate(self.model.with_net(net)))
        for one in found:
            if not math.isfinite(one.value):
                raise NotFinite(f"{one.metric} is {one.value}")
            values = () if one.values is None else one.values
            if not all(map(math.isfinite, values)):
                raise NotFinite(f"a sample's {one.metric} is not a finite number")
        return found

    def _commit(
        self,
        trial: Trial,
        row: dict[str, Any],
        found: Sequence[Measurement],
        failure: Failure | None,
    ) -> Event:
        status = "ok" if failure is None else failure.status
        row |= rows.base_row(self.job, trial) | {"status": status}
        if failure is not None:
            row |= asdict(failure)
        row["measurements"] = [rows.stored(m) for m in found]
        samples = [
            {"attempt": row["attempt"], "metric": m.metric, "values": list(m.values)}
            for m in found
            if m.values is not None
        ]
        if not is_held(self.store, self.job.name):
            raise _GivenUp
        self.store.append(row, samples)
        final = [m for m in found if m.step is None]
        return Event(
            what="ended",
            trial=trial.id,
            status=status,
            seconds=row["seconds"],
            error_class=None if failure is None else failure.error_class,
            headline=failure.reason if failure else headline(final),
            warning="" if failure else warning(final),
        )


def warning(found: Sequence[Measurement]) -> str:
    """What a reader of these numbers has to know, or an empty text."""
    for one in found:
        if one.metric == "truncated_prompts" and one.value:
            return (
                f"{one.value:.0f} of {one.n} prompts are longer than the model reads; "
                "their beginning was cut (metric truncated_prompts)"
            )
    return ""


def headline(found: Sequence[Measurement]) -> str:
    """The first measurement that ranks, as a person reads it."""
    for one in found:
        if one.goal != "none":
            return f"{one.metric} {one.value:.4g}"
    return ""

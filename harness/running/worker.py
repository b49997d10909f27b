"""Runs one bundle: fit once, compress once per ratio, evaluate, store each trial."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from harness.core import Measurement, Model
from harness.planning.messages import Built, Event, Job, took
from harness.planning.plan import configured
from harness.planning.trial import PluginSpec, Trial
from harness.running import process, rows, time_limit
from harness.running.batch import FLUSH, QUICK, Batch
from harness.running.failures import (
    Failure,
    Interrupted,
    StoreFailed,
    check_space,
    classify,
    with_output,
)
from harness.running.global_state import GlobalState
from harness.running.step_sign import StepSign
from harness.running.steps import Steps
from harness.toolkit import devices
from results.errors import StoreError
from results.storage.leases import (
    delete,
    is_leased,
    lease_job,
    requested_trials,
    stop_requested,
)
from results.storage.pending import Pending
from results.storage.store import Store, open_store


def run(
    job: Job, built: Sequence[Built] = (), state: GlobalState | None = None
) -> Iterator[Event]:
    """Run a job's trials; each is committed, and its event yielded, before the next.

    Args:
        job: The bundle, its attempts and the store.
        built: How building the bundle's artifacts ended.
        state: Restores the state of this process after each trial.

    Yields:
        The events of ``batches``, one by one.
    """
    for events in batches(job, built, state, quick=0.0, flush=0.0):
        yield from events


def batches(
    job: Job,
    built: Sequence[Built] = (),
    state: GlobalState | None = None,
    *,
    quick: float = QUICK,
    flush: float = FLUSH,
) -> Iterator[list[Event]]:
    """Run a job's trials one after the other, each durable before the next starts.

    Events and rows of quick trials come in batches. Whatever an event tells is
    committed when it is yielded.

    Args:
        job: The bundle, its attempts and the store.
        built: How building the bundle's artifacts ended.
        state: Restores the state of this process after each trial.
        quick: Seconds; trials that take less on average come in batches.
        flush: Seconds between two batches.

    Yields:
        ``started`` and ``ended`` for each trial that the driver does not ask back
        before it begins, ``returned`` for the others. ``stopped`` if the store failed,
        and ``crashed`` if the driver took this worker for dead; nothing of the job
        runs afterwards.
    """
    devices.set_threads(int(job.bundle.resources.cpus))
    try:
        store = open_store(job.store)
        state = state or GlobalState()
        if state.spoilt:
            yield [Event(what="stopped", summary=_spoilt(state.spoilt))]
            return
        # Before ``begin``, which reads the state of the process: an import that sets an
        # option of torch is part of the state that trials start from.
        _import_plugins(job)
        state.begin(*_plugins(job.bundle.trials))
        with _working(job, built, store, state) as worker:
            batch = Batch(quick=quick, flush=flush)
            for event in worker.trials(batch):
                if batch.add(event):
                    worker.commit_pending()
                    yield batch.take()
            worker.commit_pending()
        if batch.events:
            yield batch.take()
    except (StoreError, StoreFailed) as why:
        yield [Event(what="stopped", summary=str(why))]
    except _GivenUp:
        gone = "its lease is gone: another driver considered the worker dead"
        crash = Event(what="crashed", status="lost", error_class="infra", summary=gone)
        yield [crash]


@contextlib.contextmanager
def _working(
    job: Job, built: Sequence[Built], store: Store, state: GlobalState
) -> Iterator[_Worker]:
    """The worker of a job, while the store says that the job runs."""
    sign = StepSign(store, job.name)
    steps = Steps(job=job, store=store, built=tuple(built), sign=sign)
    attempts = [(job.attempts[t.id], t.id) for t in job.bundle.trials]
    # The lease lists the attempts: if this machine dies, the next run knows from it
    # which trials were lost.
    with (
        lease_job(store, job.run, job.name, attempts),
        Pending(store, job.name) as pending,
        sign,
    ):
        yield _Worker(job=job, store=store, steps=steps, state=state, pending=pending)


def _import_plugins(job: Job) -> None:
    """Import what the bundle names, so that imports change nothing afterwards."""
    with contextlib.suppress(Exception):  # the trials say what is wrong
        for trial in job.bundle.trials:
            for kind in ("method", "model", "task"):
                configured(kind, getattr(trial, kind))


def _plugins(trials: Sequence[Trial]) -> set[PluginSpec]:
    return {part for t in trials for part in (t.method, t.model, t.task)}


def _spoilt(what: str) -> str:
    return (
        f"a plugin changed the {what} of this process, which cannot be put back; "
        "finished trials are stored: run the same command again, or without --address "
        "inline, where every method has a process of its own"
    )


class _GivenUp(Exception):
    """The driver took this worker for dead, and its trials run elsewhere."""


def _give_back(store: Store, job: Job, left: deque[Trial]) -> tuple[str, ...]:
    """Take out of ``left`` what the driver asked back; the ids of these trials."""
    if not left:
        return ()
    wanted = requested_trials(store, job.name)
    given = tuple(trial.id for trial in left if trial.id in wanted)
    if wanted:
        delete(store, f"{job.name}.back")
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
    steps = Steps(job=job, store=open_store(job.store), built=tuple(built))
    steps.ready(trial)
    assert steps.model is not None
    return steps.model.with_net(steps.compressed(trial).net)


@dataclass(slots=True, kw_only=True)
class _Worker:
    """Executes the trials of a bundle and stores their rows."""

    job: Job
    store: Store
    steps: Steps
    state: GlobalState
    pending: Pending

    def trials(self, batch: Batch) -> Iterator[Event]:
        """Execute the trials that are not asked back, until the run is to stop."""
        left = deque(self.job.bundle.trials)
        while left and not stop_requested(self.store, self.job.run):
            # This trial is taken before the request is read, so that at least one
            # trial runs and a request cannot leave a job that does nothing.
            trial = left.popleft()
            # Returned before this trial starts, so that idle slots need not wait
            # for its end.
            given = _give_back(self.store, self.job, left)
            if given:
                yield Event(what="returned", trials=given)
            yield Event(what="started", trial=trial.id)
            event = self.attempt(trial, batch)
            yield event
            if event.poisoned and self.steps.broken is None and left:
                # A new process can run them; here each would fail as this one.
                rest = tuple(t.id for t in left)
                left.clear()
                yield Event(what="returned", trials=rest)

    def commit_pending(self) -> None:
        """Commit the rows that wait, unless the driver took this worker for dead."""
        if self.pending:
            self._check_lease()
            self.pending.commit()

    def attempt(self, trial: Trial, batch: Batch) -> Event:
        """Execute one trial and make its row durable, whatever happens in it."""
        device = devices.pick()
        devices.reset_peaks(device)
        started, began = datetime.now(UTC), time.perf_counter()
        written = None
        row: dict[str, Any] = {}
        found: list[Measurement] = []
        failure = None
        # Read before the trial runs: they tell the predictor which steps the trial's
        # seconds contain.
        first = not self.steps.is_fitted
        before = self.steps.ratio
        try:
            # A mark in the log and the size of the output: what comes after it belongs
            # to this trial. The disk of the log may be full.
            process.begin_attempt(self.job.attempts[trial.id], trial.id)
            written = process.output_size()
            with time_limit.limit(self.job.bundle.resources.seconds):
                row |= rows.declared_columns(trial)
                found = self.steps.execute(trial, row)
        except (StoreFailed, Interrupted):  # these end the run, not the trial
            raise
        except BaseException as error:  # every other end of a trial is a row
            check_space(error, self.store)
            failure = with_output(classify(error), process.output_since(written))
            with contextlib.suppress(RuntimeError):  # CUDA may be unusable now
                devices.release(device)
        # Also after a failure, and before the row is stored: a patched function must
        # not write it.
        self.state.restore(trial.method, trial.model, trial.task)
        row |= {
            "started_at": started,
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": devices.peak_memory(),
            "peak_device_bytes": devices.peak_device(device),
        }
        # A row waits for others only if its event does.
        wait = not batch.late() and row["seconds"] < batch.quick
        event = self._commit(trial, row, found, failure, wait=wait)
        if self.state.spoilt:
            event = replace(event, poisoned=True)
        if event.error_class is not None:
            return event
        new_ratio = trial.ratio != before
        return replace(event, numbers=took(row, first=first, new_ratio=new_ratio))

    def _commit(
        self,
        trial: Trial,
        row: dict[str, Any],
        found: Sequence[Measurement],
        failure: Failure | None,
        *,
        wait: bool,
    ) -> Event:
        self._check_lease()
        try:
            self._append(trial, row, found, failure, wait=wait)
        except StoreError:
            # Either the store failed, or this row does not fit the table.
            fault = rows.fault(row)
            if fault is None:
                raise
            failure = Failure(status="failed", error_class="bug", reason=fault)
            # Everything that a plugin could have put into the row is dropped.
            row = {k: row[k] for k in ("started_at", "seconds")}
            self._append(trial, row, (), failure, wait=wait)
        primary = primary_metric(found)
        return Event(
            what="ended",
            trial=trial.id,
            status="ok" if failure is None else failure.status,
            seconds=row["seconds"],
            error_class=None if failure is None else failure.error_class,
            summary=failure.reason if failure else summary(found),
            value=None if failure or primary is None else primary.value,
            goal="" if failure or primary is None else primary.goal,
            at_chance=primary is not None and at_chance(primary),
            poisoned=failure is not None and devices.poisoned(failure.reason),
            warning="" if failure else warning(found),
        )

    def _append(
        self,
        trial: Trial,
        row: dict[str, Any],
        found: Sequence[Measurement],
        failure: Failure | None,
        *,
        wait: bool,
    ) -> None:
        row |= rows.base_row(self.job, trial) | {"status": "ok"}
        if failure is not None:
            row |= asdict(failure)
        row["measurements"] = [rows.stored(m) for m in found]
        primary = primary_metric(found)
        row["chance"] = None if primary is None else primary.chance
        samples = [
            {"attempt": row["attempt"], "metric": m.metric, "values": m.values}
            for m in found
            if m.values is not None
        ]
        layers = [
            {"attempt": row["attempt"], **asdict(one)}
            for one in self.steps.layers(trial)
        ]
        self.pending.append(row, samples, layers, wait=wait)

    def _check_lease(self) -> None:
        # The driver deletes the lease of a worker that it considers dead. A row of it
        # would be a second result of a trial that runs elsewhere by now.
        if not is_leased(self.store, self.job.name):
            raise _GivenUp


def warning(found: Sequence[Measurement]) -> str:
    """What a reader of these numbers has to know, or an empty text."""
    for one in found:
        if one.metric == "truncated_prompts" and one.value:
            return (
                f"{one.value:.0f} of {one.n} prompts are longer than the model reads; "
                "their beginning was cut (metric truncated_prompts)"
            )
        if one.metric == "unfinished_reasoning" and one.value:
            return (
                f"{one.value:.0f} of {one.n} answers end before their reasoning does "
                "(metric unfinished_reasoning): raise max_gen_toks"
            )
    return ""


def primary_metric(found: Sequence[Measurement]) -> Measurement | None:
    """The first final measurement that ranks."""
    return next((m for m in found if m.step is None and m.goal != "none"), None)


def at_chance(one: Measurement) -> bool:
    """Whether a number is not better than guessing by more than two standard errors.

    The rule of the view ``leaderboard``, for one trial; False where ``chance`` is not
    known.
    """
    if one.chance is None:
        return False
    error = 2 * (one.stderr or 0.0)
    if one.goal == "max":
        return one.value - error <= one.chance
    return one.value + error >= one.chance


def summary(found: Sequence[Measurement]) -> str:
    """The primary metric as a person reads it; empty if nothing ranks."""
    one = primary_metric(found)
    return "" if one is None else f"{one.metric} {one.value:.4g}"

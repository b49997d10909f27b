"""Runs a plan: hands out jobs, handles their events, retries what may succeed.

Keeps no state beyond its run; the store decides which trials are finished.
"""

from __future__ import annotations

import heapq
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from types import FrameType
from typing import Any, Protocol

from harness.core import BenchError
from harness.planning.messages import Event, Job
from harness.planning.plan import Bundle, Plan
from harness.planning.trial import Trial
from harness.running.failures import Interrupted, clean
from harness.running.recovery import committed, settle
from harness.running.rows import base_row
from results.outcomes import FINISHED, ErrorClass
from results.storage import leases
from results.storage.store import Store, new_attempt
from results.text.counts import counted

# Error classes that show that a prediction of memory was too small.
UNDERESTIMATED = (ErrorClass.OOM, ErrorClass.INSUFFICIENT_MEMORY)
ONCE = 0.5  # seconds within which equal signals count as one
LONGEST_WAIT = 60.0  # seconds before a retry


class Executor(Protocol):
    """Where bundles run."""

    def arrange(self, bundles: Sequence[Bundle]) -> list[Bundle]:
        """Return the bundles in the order to start them; long ones may be cut."""

    def stale(self) -> bool:
        """Whether predictions changed so much that the rest is to be arranged again."""

    def check(self, bundles: Sequence[Bundle], store: str) -> None:
        """Raise a ``BenchError`` for bundles that can never run here."""

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, list[Event]]]:
        """Yield each job with its next events."""

    def close(self) -> None:
        """Stop every process."""


class Watcher(Protocol):
    """Shows progress."""

    def event(self, job: Job, trial: Trial, event: Event) -> None:
        """Called when a trial started or ended."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    Args:
        counts: Number of trials by final status.
        stopped: Why the run ended early; None if it did not.
        drained: Whether a person asked the run to stop.
    """

    counts: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    drained: bool = False

    @property
    def failures(self) -> int:
        """Number of trials that ended with a status that is not finished."""
        return sum(self.counts.values()) - sum(self.counts[s] for s in FINISHED)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of the driver; a simulation passes its virtual time."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True, kw_only=True)
class Driver:
    """One run of a plan.

    Args:
        plan: Plan whose bundles are run.
        store: The store; workers open it by its URI.
        executor: Executor that starts bundles on workers.
        watcher: Gets every event, to show progress.
        max_failures: Stop after this many failed trials; None never stops.
        commit: Commit of this checkout, and whether it has uncommitted changes.
        clock: Time of the waits before retries.
        keep_models: Whether the compressed network of each trial is stored.
    """

    plan: Plan
    store: Store
    executor: Executor
    watcher: Watcher
    max_failures: int | None = None
    commit: tuple[str | None, bool | None] = (None, None)
    clock: Clock = field(default_factory=Clock)
    keep_models: bool = False
    run_id: str = field(default_factory=lambda: new_attempt()[-12:])
    outcome: Outcome = field(default_factory=Outcome)
    stored: list[str] = field(default_factory=list)  # attempts whose rows were stored
    _queue: deque[Bundle] = field(default_factory=deque)
    # A heap of (time when due, running number, bundle).
    _retries: list[tuple[float, int, Bundle]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    # (trial, error class) -> failed tries in this run: a trial that ran out of memory
    # once still has all its tries for a machine that fails.
    _tries: Counter[tuple[str, str]] = field(default_factory=Counter)
    # For each running job, by ``Job.key``: ids of trials that ended or were returned;
    # and its trials that will be tried again, by error class.
    _ended: dict[str, set[str]] = field(default_factory=dict)
    _redo: dict[str, dict[str, list[Trial]]] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Run all bundles of the plan; a failed trial does not stop the others."""
        self.executor.check(self.plan.bundles, self.store.uri)
        self._queue.extend(self.executor.arrange(self.plan.bundles))
        with _DrainOnInterrupt(self._interrupted):
            for job, events in self.executor.run(self._jobs()):
                for event in events:
                    self._handle(job, event)
        leases.delete(self.store, f"{self.run_id}.stop")
        return self.outcome

    def _interrupted(self) -> None:
        """Drain, and let the watcher say at once what the run waits for."""
        self.drain()
        stopping = getattr(self.watcher, "stopping", None)
        if stopping is not None:
            stopping()

    def drain(self, why: str | None = None) -> None:
        """Start no further trial; running trials finish and are stored."""
        self._queue.clear()
        self._retries.clear()
        self.outcome.drained = self.outcome.drained or why is None
        self.outcome.stopped = self.outcome.stopped or why or "asked to stop"
        leases.request_stop(self.store, self.run_id)

    def _jobs(self) -> Iterator[Job]:
        """Return an iterator over jobs that may continue after ``StopIteration``."""
        driver = self

        # A generator would be over for good at its first StopIteration. This iterator
        # can be asked again, since an event may queue a retry or returned trials.
        class _Jobs(Iterator[Job]):
            def __next__(self) -> Job:
                return driver._job(driver._next())

        return _Jobs()

    def _next(self) -> Bundle:
        """Return a retry that is due, else the next bundle; stop without either."""
        while True:
            now = self.clock.now()
            if self._retries and self._retries[0][0] <= now:
                return heapq.heappop(self._retries)[2]
            # A retry that is due goes first and needs no new order.
            if self._queue and self.executor.stale():
                self._queue = deque(self.executor.arrange(list(self._queue)))
                if self.outcome.stopped is not None:  # a drain came in between
                    self._queue.clear()
            if self._queue:
                return self._queue.popleft()
            # While jobs run, the executor asks again after their next event, or soon.
            if not self._retries or self._ended:
                raise StopIteration
            # Sleep briefly, since a drain empties the list of retries.
            self.clock.sleep(min(self._retries[0][0] - now, 0.5))

    def _job(self, bundle: Bundle) -> Job:
        job = Job(
            bundle=bundle,
            attempts={t.id: new_attempt() for t in bundle.trials},
            store=self.store.uri,
            grid=self.plan.grid.name,
            run=self.run_id,
            commit=self.commit,
            keep_models=self.keep_models,
        )
        self._ended[job.key] = set()
        return job

    def _handle(self, job: Job, event: Event) -> None:
        if event.what == "stopped":
            raise BenchError(event.summary)
        if event.what == "crashed":
            self._handle_crash(job, event)
            return
        if event.what == "returned":
            self._take_back(job, event.trials)
            return
        trial = job.trial(event.trial)
        if event.what == "ended":
            self._count(job, trial, event)
        self.watcher.event(job, trial, event)

    def _take_back(self, job: Job, trials: Sequence[str]) -> None:
        """Queue again what a worker gave back, for an idle worker."""
        # Counted as ended here: they belong to their new bundle from now on.
        self._ended[job.key].update(trials)
        kept = (t.id for t in job.bundle.trials if t.id not in trials)
        rest = job.bundle.without(kept)
        if rest is not None and self.outcome.stopped is None:
            self._queue.append(rest)

    def _count(self, job: Job, trial: Trial, event: Event) -> None:
        ended = self._ended[job.key]
        ended.add(trial.id)
        self.stored.append(job.attempts[trial.id])
        if event.error_class and self._again(trial, event.error_class):
            again = self._redo.setdefault(job.key, {})
            again.setdefault(event.error_class, []).append(trial)
        else:
            self.outcome.counts[event.status] += 1
        # Retries wait for the end of the bundle, so that all its failed trials of one
        # class become one bundle, which fits once.
        if len(ended) == len(job.bundle.trials):
            del self._ended[job.key]
            self._retry(job)
        if (
            self.max_failures is not None
            and self.outcome.failures >= self.max_failures
            and self.outcome.stopped is None
        ):
            self.drain(f"{counted(self.outcome.failures, 'trial')} failed")

    def _retry(self, job: Job) -> None:
        """Queue the trials of a bundle that are tried again as one bundle."""
        for error_class, trials in self._redo.pop(job.key, {}).items():
            if self.outcome.stopped is None:
                self._requeue(job.bundle, trials, error_class)

    def _again(self, trial: Trial, error_class: str) -> bool:
        """Count a failed try; return whether this run tries the trial again."""
        tries = ErrorClass.of(error_class).tries
        # Errors of a class with one try would happen again: a bug, a NaN, a combination
        # that is not supported.
        if tries == 1 or self.outcome.stopped is not None:
            return False
        self._tries[trial.id, error_class] += 1
        return self._tries[trial.id, error_class] < tries

    def _handle_crash(self, job: Job, event: Event) -> None:
        """A worker died: store a row for the trial it ran, run the others again."""
        leases.delete(
            self.store, f"{job.name}.json"
        )  # what the worker still ends is not stored
        settle(self.store, job.name)
        if job.key not in self._ended:  # every trial was reported before
            return
        left = [t for t in job.bundle.trials if t.id not in self._ended[job.key]]
        # Those that ended, but were not reported before the worker died. Trials run in
        # order: the first one without a row was running, and the later ones had not
        # started.
        ended = committed(self.store, [job.attempts[t.id] for t in left])
        for trial in left[: len(ended)]:
            status, error_class = ended[job.attempts[trial.id]]
            late = Event(
                what="ended", trial=trial.id, status=status, error_class=error_class
            )
            self._count(job, trial, late)
            self.watcher.event(job, trial, late)
        left = left[len(ended) :]
        if not left:
            return
        # Before anything is queued: ``_next`` takes an empty ``_ended`` as a sign that
        # no job runs.
        del self._ended[job.key]
        self._retry(job)
        first = left[0]
        self.store.append(
            base_row(job, first)
            | {
                "status": event.status,
                "error_class": event.error_class,
                "reason": event.summary,
                "traceback": clean(event.details) or None,
                "started_at": datetime.now(UTC),
                "node": event.node or None,
                "measurements": [],
            }
        )
        self.stored.append(job.attempts[first.id])
        self.watcher.event(job, first, replace(event, what="ended", trial=first.id))
        # The trial that killed its worker runs again with the trials that never
        # started, or is given up, and they run without it.
        if self._again(first, event.error_class or ErrorClass.BUG):
            self._requeue(job.bundle, left, event.error_class or "")
            return
        self.outcome.counts[event.status] += 1
        if len(left) > 1 and self.outcome.stopped is None:
            self._requeue(job.bundle, left[1:], "")

    def _requeue(self, bundle: Bundle, trials: list[Trial], error_class: str) -> None:
        wanted = {t.id for t in trials}
        rest = bundle.without(t.id for t in bundle.trials if t.id not in wanted)
        if rest is None:
            return
        if error_class in UNDERESTIMATED:
            rest = replace(rest, underestimated=rest.underestimated + 1)
        tries = max(self._tries[t.id, error_class] for t in trials)
        first = ErrorClass.of(error_class).wait  # 0 for trials that did not fail
        # Exponential backoff. The random factor keeps workers that failed together, as
        # with a file server, from coming back together.
        wait = min(LONGEST_WAIT, first * 2.0**tries) * random.uniform(0.5, 1.0)
        due = self.clock.now() + wait
        heapq.heappush(self._retries, (due, next(self._order), rest))


class _DrainOnInterrupt:
    """The first Ctrl-C or SIGTERM drains the run, the second interrupts it."""

    def __init__(self, drain: Callable[[], None]) -> None:
        self.drain = drain
        self.drained_at = 0.0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._first)

    def _first(self, number: int, _frame: FrameType | None) -> None:
        self.drained_at = time.monotonic()
        for each in self.before:
            signal.signal(each, self._second)
        self.drain()

    def _second(self, number: int, _frame: FrameType | None) -> None:
        # A system that signals every process of a job signals the supervisor, too,
        # which passes the signal on.
        if time.monotonic() - self.drained_at < ONCE:
            return
        # A second Ctrl-C raises in whatever runs; a second SIGTERM ends the process.
        if number == signal.SIGINT:
            raise Interrupted
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

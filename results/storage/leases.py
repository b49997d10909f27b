"""Leases: files that say which process runs which trials, to detect killed workers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from results.storage.store import Store
from results.storage.temporary import ended
from results.text import json_reader

NODE = "SHRINKGRID_NODE"  # environment variable: the cluster's id of this node
SETTLED = 60.0  # seconds that another driver has to confirm or withdraw its claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A job that a worker is running, or was running when it was killed.

    Args:
        name: File name of the lease in the store's folder ``running``.
        run: Id of the run that the job belongs to.
        host: Host name of the worker's machine.
        pid: Process id of the worker.
        started_at: Start time in seconds since 1970.
        attempts: Pairs of attempt and trial ids, in the order in which they run.
        node: The cluster's id of the node; empty where there is no cluster.
    """

    name: str
    run: str
    host: str
    pid: int
    started_at: float
    attempts: tuple[tuple[str, str], ...]
    node: str = ""

    @property
    def job(self) -> str:
        """Name of the job."""
        return self.name.removesuffix(".json")

    def alive(self) -> bool | None:
        """Whether the worker is alive; None if it is on another machine."""
        return _lives(self.host, self.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A driver that runs a plan, or was running it when it was killed.

    Args:
        run: Id of the driver's run.
        host: Host name of the driver's machine.
        pid: Process id of the driver.
        started_at: Start time in seconds since 1970.
        plan: Id of the plan in the table ``plans``.
        claims: Whether the driver has not yet checked for conflicts.
        trials: Number of trials that the driver has to run; None until it says so.
        seconds: Forecast of how long all of them take; None if there is none.
    """

    run: str
    host: str
    pid: int
    started_at: float
    plan: str
    claims: bool = False
    trials: int | None = None
    seconds: float | None = None

    def alive(self) -> bool | None:
        """Whether the driver is alive; None if it is on another machine."""
        return _lives(self.host, self.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a worker was doing when it last said so.

    Args:
        trial: Id of the trial.
        name: ``loading``, ``fitting``, ``compressing`` or ``evaluating``.
        since: When the step began, in seconds since 1970 by the worker's clock.
    """

    trial: str
    name: str
    since: float


def _lives(host: str, pid: int) -> bool | None:
    if host != socket.gethostname():
        return None
    # A number that was given to another process since then counts as alive, which
    # delays a recovery but loses nothing.
    return not ended(pid)


@contextlib.contextmanager
def lease_job(
    store: Store, run: str, job: str, attempts: Sequence[tuple[str, str]]
) -> Iterator[None]:
    """Write a lease for a job of this process, and delete it at the end.

    Args:
        store: The store that the trials are written to.
        run: Id of the run.
        job: Name of the job; unique in the store.
        attempts: Pairs of attempt and trial ids, in the order in which they run.
    """
    path = f"running/{job}.json"
    lease = {
        "run": run,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "node": os.environ.get(NODE, ""),
        "started_at": time.time(),
        "attempts": list(attempts),
    }
    store.folder.write(path, json.dumps(lease).encode())
    try:
        yield
    finally:
        store.folder.delete(path)


def is_leased(store: Store, job: str) -> bool:
    """Whether the lease of a job still exists.

    A driver deletes the lease of a worker that it considers dead, before it gives the
    trials to another worker. A worker that was only disconnected must check its lease
    before it stores a row, so that no trial is stored twice.
    """
    return store.folder.read(f"running/{job}.json") is not None


@contextlib.contextmanager
def claim(store: Store, run: str, plan: str) -> Iterator[None]:
    """Write the lease of a driver, and delete it at the end.

    The lease is only a claim until ``conflicts`` has found no other driver.

    Args:
        store: The store that the run writes to.
        run: Id of the run.
        plan: Id of the plan in the table ``plans``.
    """
    _write_owner(store, run, plan, claims=True)
    try:
        yield
    finally:
        store.folder.delete(f"running/{run}.driver")


def conflicts(
    store: Store, run: str, plan: str, *, share: Callable[[Owner], bool]
) -> list[Owner]:
    """Find the other drivers that run trials of this run; confirm the claim if none.

    If two drivers claim at the same moment, the driver with the greater run id stops.
    Each driver writes its claim before it looks for others, so at least one of them
    sees the other. The driver with the smaller id waits until the other driver has
    withdrawn or confirmed its claim.

    Args:
        store: The store that the run writes to.
        run: Id of this run, which ``claim`` has written.
        plan: Id of the plan in the table ``plans``.
        share: Whether another driver has trials of this run in its plan.

    Returns:
        The drivers that run such trials, or whose claims come before this claim.
    """
    deadline = time.monotonic() + SETTLED
    while True:
        # A confirmed driver (``claims`` is False) always comes first. Among claims the
        # smaller run id does: an order that both sides compute alike.
        others = [o for o in owners(store) if o.run != run and share(o)]
        ahead = [o for o in others if not o.claims or o.run < run]
        if ahead or not others:
            break
        if time.monotonic() > deadline:  # the other driver's machine is gone
            return others
        time.sleep(0.05)
    # Confirmed: a driver that claims later sees one that runs, and stops.
    if not ahead:
        _write_owner(store, run, plan, claims=False)
    return ahead


def _write_owner(store: Store, run: str, plan: str, *, claims: bool) -> None:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": time.time(),
        "plan": plan,
        "claims": claims,
    }
    store.folder.write(f"running/{run}.driver", json.dumps(owner).encode())


def expect(store: Store, run: str, trials: int, seconds: float | None) -> None:
    """Add to the lease of a driver what it has to do, for readers of the store.

    Args:
        store: The store that the run writes to.
        run: Id of the run, which ``claim`` has written.
        trials: Number of trials to run.
        seconds: Forecast of how long all of them take; None if there is none.
    """
    path = f"running/{run}.driver"
    text = store.folder.read(path)
    if text is not None:
        owner = json.loads(text) | {"trials": trials, "seconds": seconds}
        store.folder.write(path, json.dumps(owner).encode())


def owners(store: Store) -> list[Owner]:
    """Returns the drivers that have a lease; deletes leases of this machine's dead."""
    found = []
    for name in store.folder.names("running"):
        if not name.endswith(".driver"):
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
            value = json_reader.read(store.folder.read(f"running/{name}") or b"")
            owner = Owner(
                run=name.removesuffix(".driver"),
                host=str(value["host"]),
                pid=int(value["pid"]),
                started_at=float(value["started_at"]),
                plan=str(value["plan"]),
                claims=bool(value.get("claims")),
                trials=None if (n := value.get("trials")) is None else int(n),
                seconds=None if (s := value.get("seconds")) is None else float(s),
            )
            # Not for None: of another machine's driver only that machine can tell.
            if owner.alive() is False:
                delete(store, name)
            else:
                found.append(owner)
    return found


def wait_for_orphans(store: Store, seconds: float = 60.0) -> None:
    """Wait until no worker of a dead driver is alive on this machine.

    Ray ends such workers within seconds. A run that starts before that could repeat
    the trials that they are about to store.

    Args:
        store: The store whose leases are read.
        seconds: The longest time to wait.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        owned = {owner.run for owner in owners(store)}
        if not any(w.alive() and w.run not in owned for w in read_all(store)):
            return
        time.sleep(0.5)


def read_all(store: Store) -> list[Lease]:
    """Returns every worker's lease, including those of dead workers."""
    names = [n for n in store.folder.names("running") if n.endswith(".json")]
    return [found for name in names if (found := read(store, name)) is not None]


def read(store: Store, name: str) -> Lease | None:
    """Returns a worker's lease by its file name; None if it is missing or damaged."""
    text = store.folder.read(f"running/{name}")
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
        # A missing file reads as null, which has no keys: the same as a damaged one.
        value = json_reader.read(text or "null")
        return Lease(
            name=name,
            run=str(value["run"]),
            host=str(value["host"]),
            pid=int(value["pid"]),
            started_at=float(value["started_at"]),
            attempts=tuple((str(a), str(t)) for a, t in value["attempts"]),
            node=str(value.get("node", "")),
        )
    return None


def request_stop(store: Store, run: str) -> None:
    """Ask the workers of a run to stop after their running trials."""
    store.folder.write(f"running/{run}.stop", b"")


def stop_requested(store: Store, run: str) -> bool:
    """Whether the workers of a run were asked to stop."""
    return store.folder.read(f"running/{run}.stop") is not None


def request_trials(store: Store, job: str, trials: Sequence[str]) -> None:
    """Ask a worker to return trials of its job that it has not started.

    Args:
        store: The store that the worker writes to.
        job: Name of the worker's job.
        trials: Ids of the trials, which an idle worker could run.
    """
    store.folder.write(f"running/{job}.back", json.dumps(list(trials)).encode())


def requested_trials(store: Store, job: str) -> frozenset[str]:
    """Returns the ids of ``request_trials``; empty if the file cannot be read."""
    text = store.folder.read(f"running/{job}.back")
    with contextlib.suppress(ValueError):
        found = json_reader.read(text or b"[]")
        if isinstance(found, list):
            return frozenset(t for t in found if isinstance(t, str))
    return frozenset()


def announce_step(store: Store, job: str, trial: str, step: str, since: float) -> None:
    """Say which step of a trial a job is in; see ``Step`` for the values."""
    said = {"trial": trial, "name": step, "since": since}
    store.folder.write(f"running/{job}.step", json.dumps(said).encode())


def delete_step(store: Store, job: str) -> None:
    """Delete what ``announce_step`` wrote."""
    store.folder.delete(f"running/{job}.step")


def step(store: Store, job: str) -> Step | None:
    """Returns what a job said last; None if nothing or if the file is damaged."""
    text = store.folder.read(f"running/{job}.step")
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
        value = json_reader.read(text or b"null")
        return Step(
            trial=str(value["trial"]),
            name=str(value["name"]),
            since=float(value["since"]),
        )
    return None


def steps(store: Store) -> list[Step]:
    """Returns what every job said last."""
    names = store.folder.names("running")
    jobs = [name.removesuffix(".step") for name in names if name.endswith(".step")]
    return [found for job in jobs if (found := step(store, job)) is not None]


def delete(store: Store, name: str) -> None:
    """Delete a file of the folder ``running``, such as the lease of a dead worker.

    What a worker said of its step goes with its lease.
    """
    store.folder.delete(f"running/{name}")
    if name.endswith(".json"):
        delete_step(store, name.removesuffix(".json"))

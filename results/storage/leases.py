"""Markers of the jobs in hand, so that a killed run's trials can be told from idle."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from results.storage.store import Store
from results.text import json_reader

NODE = "SHRINKGRID_NODE"  # environment variable: the cluster's id of this node
SETTLED = 60.0  # seconds that another driver has to settle its claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """One job that some worker has, or had, in hand.

    Args:
        name: The marker's file name.
        run: The run that the job belongs to.
        host: Where the worker runs.
        pid: Its process.
        started_at: Seconds since 1970.
        attempts: Attempt and trial, in the order in which they run.
        node: The cluster's id of the node; empty where there is no cluster.
    """

    name: str
    run: str
    host: str
    pid: int
    started_at: float
    attempts: tuple[tuple[str, str], ...]
    node: str = ""

    def alive(self) -> bool | None:
        """Whether the worker lives; None if it is on another machine."""
        return _lives(self.host, self.pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A driver that runs a plan, or ran it until it died.

    Args:
        run: Its run.
        host: Where it runs.
        pid: Its process.
        started_at: Seconds since 1970.
        plan: The plan in the table ``plans``.
        claims: Whether it has yet to look if it is alone.
    """

    run: str
    host: str
    pid: int
    started_at: float
    plan: str
    claims: bool = False

    def alive(self) -> bool | None:
        """Whether the driver lives; None if it is on another machine."""
        return _lives(self.host, self.pid)


def _lives(host: str, pid: int) -> bool | None:
    if host != socket.gethostname():
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:  # it lives, and is somebody else's
        return True
    except (OSError, OverflowError):
        return False
    return pid > 0


@contextlib.contextmanager
def in_hand(
    store: Store, run: str, job: str, attempts: Sequence[tuple[str, str]]
) -> Iterator[None]:
    """Say in the store that this process works on these attempts.

    Args:
        store: The store.
        run: The run's id.
        job: The job's name, which no other job has.
        attempts: Attempt and trial, in the order in which they run.
    """
    path = f"running/{job}.json"
    marker = {
        "run": run,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "node": os.environ.get(NODE, ""),
        "started_at": time.time(),
        "attempts": list(attempts),
    }
    store.folder.write(path, json.dumps(marker).encode())
    try:
        yield
    finally:
        store.folder.delete(path)


def is_held(store: Store, job: str) -> bool:
    """Whether a worker's marker is there still.

    A driver deletes it when it takes the worker for dead, before it gives the trials to
    another. A worker that was only cut off, and comes back, must not store them too.

    Args:
        store: The store.
        job: The job's name.

    Returns:
        False if the driver took it for dead.
    """
    return store.folder.read(f"running/{job}.json") is not None


@contextlib.contextmanager
def hold(store: Store, run: str, plan: str) -> Iterator[None]:
    """Say in the store that this process drives a run of a plan.

    At first it only claims the plan; see ``rivals``.

    Args:
        store: The store.
        run: The run's id.
        plan: The plan's id.
    """
    _say(store, run, plan, claims=True)
    try:
        yield
    finally:
        store.folder.delete(f"running/{run}.driver")


def rivals(
    store: Store, run: str, plan: str, *, share: Callable[[Holder], bool]
) -> list[Holder]:
    """Who drives some of the trials of this run; if nobody does, it may go on.

    Of two drivers that claim in the same moment one gives way, by the order of their
    ids: each says what it claims before it looks, so at least one sees the other, and
    the one that comes first waits until the other has given way or has gone on.

    Args:
        store: The store.
        run: This run, which ``hold`` claims for.
        plan: The plan's id.
        share: Whether another driver has trials of this run in its plan.

    Returns:
        The other drivers that drive, or claim and come first.
    """
    deadline = time.monotonic() + SETTLED
    while True:
        others = [h for h in holders(store) if h.run != run and share(h)]
        ahead = [h for h in others if not h.claims or h.run < run]
        if ahead or not others:
            break
        if time.monotonic() > deadline:  # it is on a machine that is gone
            return others
        time.sleep(0.05)
    if not ahead:
        _say(store, run, plan, claims=False)
    return ahead


def _say(store: Store, run: str, plan: str, *, claims: bool) -> None:
    holder = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": time.time(),
        "plan": plan,
        "claims": claims,
    }
    store.folder.write(f"running/{run}.driver", json.dumps(holder).encode())


def holders(store: Store) -> list[Holder]:
    """Every driver that says it runs; those of this machine that died are cleared."""
    found = []
    for name in store.folder.names("running"):
        if not name.endswith(".driver"):
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
            value = json_reader.read(store.folder.read(f"running/{name}") or b"")
            holder = Holder(
                run=name.removesuffix(".driver"),
                host=str(value["host"]),
                pid=int(value["pid"]),
                started_at=float(value["started_at"]),
                plan=str(value["plan"]),
                claims=bool(value.get("claims")),
            )
            if holder.alive() is False:
                forget(store, name)
            else:
                found.append(holder)
    return found


def await_orphans(store: Store, seconds: float = 60.0) -> None:
    """Wait until workers of this machine whose driver died have died too.

    Ray ends them within seconds; a run that started meanwhile could repeat what they
    are about to commit.

    Args:
        store: The store.
        seconds: How long to wait at most.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        held = {holder.run for holder in holders(store)}
        if not any(m.alive() and m.run not in held for m in markers(store)):
            return
        time.sleep(0.5)


def markers(store: Store) -> list[Marker]:
    """Every marker in the store, also those whose worker died."""
    names = [n for n in store.folder.names("running") if n.endswith(".json")]
    return [found for name in names if (found := marker(store, name)) is not None]


def marker(store: Store, name: str) -> Marker | None:
    """One marker by its file name, or None where there is none."""
    text = store.folder.read(f"running/{name}")
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError):
        value = json_reader.read(text or "null")
        return Marker(
            name=name,
            run=str(value["run"]),
            host=str(value["host"]),
            pid=int(value["pid"]),
            started_at=float(value["started_at"]),
            attempts=tuple((str(a), str(t)) for a, t in value["attempts"]),
            node=str(value.get("node", "")),
        )
    return None


def drain(store: Store, run: str) -> None:
    """Ask the workers of a run to stop after the trial in hand."""
    store.folder.write(f"running/{run}.stop", b"")


def draining(store: Store, run: str) -> bool:
    """Whether a run was asked to stop."""
    return store.folder.read(f"running/{run}.stop") is not None


def recall(store: Store, job: str, trials: Sequence[str]) -> None:
    """Ask a worker to give back trials of its job that it has not begun.

    Args:
        store: The store.
        job: The job's name.
        trials: Their ids.
    """
    store.folder.write(f"running/{job}.back", json.dumps(list(trials)).encode())


def recalled(store: Store, job: str) -> frozenset[str]:
    """What the driver asked back from a job; nothing where that cannot be read."""
    text = store.folder.read(f"running/{job}.back")
    with contextlib.suppress(ValueError):
        found = json_reader.read(text or b"[]")
        if isinstance(found, list):
            return frozenset(t for t in found if isinstance(t, str))
    return frozenset()


def forget(store: Store, name: str) -> None:
    """Delete a marker whose worker is gone."""
    store.folder.delete(f"running/{name}")

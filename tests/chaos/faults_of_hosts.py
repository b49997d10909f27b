"""Faults of the machine that a run is on: memory, disk, processes, clock, users."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cgroup import memory_group
from faults import fault, scene
from faults_of_stores import disk, fill
from scene import INLINE, Outcome, Scene
from users import FIRST, GROUP, SECOND, as_user

from results.queries.db import ask
from results.storage.store import open_store

DAY = 86400


@fault("the kernel's out-of-memory killer")
def kernel_kills(folder: Path) -> Outcome:
    """A trial takes more memory than the cgroup of its run has; the kernel kills it."""
    once = folder / "once"
    hog = f"{{name: toy_hog, megabytes: 8000, allowed: all, once: {once}}}"
    with (
        memory_group(5000) as words,
        scene(folder, methods=f"{hog}, toy_noop", before=words) as it,
    ):
        run = it.start()
        it.until(once.exists, run)
        it.harmed()
        it.ended(run, 0)
        it.again()
        query = "SELECT reason FROM trials WHERE status = 'out_of_memory'"
        ((reason,),) = ask(open_store(it.store), query).rows
        assert "the kernel killed its process" in reason, reason
        return it.outcome()


@fault("the temporary folder full")
def temporary_full(folder: Path) -> Outcome:
    """The file system of TMPDIR, which Ray writes to, fills up while trials print."""
    with _near() as near, disk(near, megabytes=200) as place:
        env = {"TMPDIR": str(place), "RAY_TMPDIR": str(place)}
        with scene(folder, methods="toy_prints", env=env) as it:
            run = it.under_way()
            with fill(place):
                it.harmed()
                it.ended(run, 2)
            assert f"the temporary folder {place} cannot be written" in run.said
            it.again()
            outcome = it.outcome()
            assert "failed" not in outcome.statuses, "a trial was blamed for the disk"
            return outcome


@fault("another user goes on", in_ci=True)
def another_user(folder: Path) -> Outcome:
    """SIGKILL to a user's driver; another user of the group types the line."""
    with _near() as near:
        os.chown(near, 0, GROUP)
        near.chmod(0o2775)  # new files belong to the group
        store = str(near / "store")
        with scene(folder, store=store, words=INLINE) as it:
            run = _as(it, FIRST, near).under_way()
            run.kill()
            it.harmed()
            it.ended(run, "killed")
            _as(it, SECOND, near).again()
            owners = {path.stat().st_uid for path in near.glob("store/trials/*")}
            assert owners == {FIRST, SECOND}
            return it.outcome()


@fault("the clock jumps")
def clock_jumps(folder: Path) -> Outcome:
    """The clock jumps a day ahead in the middle of a run, then two days back."""
    clock = folder / "clock"
    _set(clock, 0)
    with scene(folder, env={"SABOTAGE_CLOCK": str(clock)}, seconds=1) as it:
        run = it.under_way(count=2)
        it.harmed()
        _set(clock, DAY)
        it.recovered(run)
        done = len(it.finished())
        _set(clock, -DAY)
        it.until(lambda: len(it.finished()) > done + 1, run)
        it.ended(run, 0)
        _set(clock, 0)
        it.again()
        query = "SELECT max(started_at) - min(started_at), max(seconds) FROM trials"
        ((apart, longest),) = ask(open_store(it.store), query).rows
        assert apart.days >= 1, "the clock did not jump"
        assert longest < DAY / 2, "a duration was taken from the clock"
        return it.outcome()


def _set(clock: Path, seconds: int) -> None:
    """Set how far the clock is ahead, in a file that is always whole."""
    new = clock.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(clock)


def _home(folder: Path, user: int) -> Path:
    """A folder that belongs to a user."""
    folder.mkdir(exist_ok=True)
    os.chown(folder, user, GROUP)
    return folder


def _as(it: Scene, user: int, near: Path) -> Scene:
    """The scene, whose next run is another user's; its files are the group's too."""
    umask = ("sh", "-c", 'umask 002 && exec "$@"', "-")
    it.before = (*umask, *as_user(user, GROUP))
    own = _home(near / str(user), user)
    it.env |= {"HOME": str(own), "RAY_TMPDIR": str(own), "TOY_COUNTS": ""}
    return it


@contextlib.contextmanager
def _near() -> Iterator[Path]:
    """A folder that every user may enter; Ray's sockets need its short path."""
    with tempfile.TemporaryDirectory(prefix="sg", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)

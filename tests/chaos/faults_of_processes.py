"""Faults of drivers, workers and trials."""

import os
import signal
import time
from pathlib import Path

import psutil
from faults import fault, scene
from scene import INLINE, Outcome


@fault("driver killed (SIGKILL)", in_ci=True)
def driver_killed(folder: Path) -> Outcome:
    """SIGKILL to the process that was typed; Ray's processes are left to themselves."""
    with scene(folder) as it:
        run = it.under_way()
        run.kill()
        it.harmed()
        it.ended(run, "killed")
        it.again()
        return it.outcome()


@fault("driver told to end (SIGTERM)")
def driver_ended(folder: Path) -> Outcome:
    """SIGTERM to the driver: running trials finish, nothing more starts."""
    with scene(folder, seconds=1.0) as it:
        run = it.under_way()
        _, trial = it.worker(run)
        run.process.send_signal(signal.SIGTERM)
        it.harmed()
        it.ended(run, 130)
        assert it.finished()[trial] == 1, "the running trial was not drained"
        it.again()
        return it.outcome()


@fault("worker killed (SIGKILL)", in_ci=True)
def worker_killed(folder: Path) -> Outcome:
    """SIGKILL to a worker in the middle of a trial."""
    with scene(folder, seconds=1.0) as it:
        run = it.under_way()
        pid, trial = it.worker(run)
        os.kill(pid, signal.SIGKILL)
        it.harmed(trial)
        it.ended(run, 0)
        it.again()
        outcome = it.outcome()
        assert outcome.statuses["lost"] == 1
        return outcome


@fault("Ray of this machine killed", in_ci=True)
def raylet_killed(folder: Path) -> Outcome:
    """SIGKILL to the raylet that the run started: only running trials are lost."""
    with scene(folder, seconds=1.0) as it:
        run = it.under_way(count=1)
        it.worker(run)
        run.child("raylet").kill()
        it.harmed()
        began = time.monotonic()
        it.ended(run, 2)
        assert time.monotonic() - began < 20, "the run noticed it too late"
        assert "Ray on this machine has ended" in run.said, run.said
        it.again()
        outcome = it.outcome()
        assert outcome.statuses.get("lost", 0) <= 2, "trials that had not begun"
        return outcome


@fault("Ray killed while it starts", in_ci=True)
def ray_killed_at_start(folder: Path) -> Outcome:
    """SIGKILL to Ray's control service (GCS) as soon as the run has started it."""
    with scene(folder, seconds=0.1) as it:
        run = it.start()
        run.child("gcs_server").kill()
        it.harmed()
        began = time.monotonic()
        it.ended(run, 2)
        assert time.monotonic() - began < 30, "the run noticed it too late"
        assert run.said.count("error: ") == 1, run.said
        assert "Ray did not start on this machine" in run.said, run.said
        it.again()
        return it.outcome()


@fault("worker hangs in C code")
def worker_hangs(folder: Path) -> Outcome:
    """A call into C that holds the interpreter and outlives the trial's time limit."""
    return _stuck(folder, "call")


@fault("worker stopped (SIGSTOP)")
def worker_stopped(folder: Path) -> Outcome:
    """A worker that the kernel does not schedule, and that hears no SIGTERM."""
    return _stuck(folder, "stop")


def _stuck(folder: Path, how: str) -> Outcome:
    once = folder / "stuck"
    methods = f"{{name: toy_stuck, how: {how}, once: {once}}}, toy_noop"
    with scene(folder, methods=methods, resources="cpus: 1, time: 2s") as it:
        run = it.start()
        it.until(once.exists, run)
        it.harmed()
        it.ended(run, 3)
        assert not psutil.pid_exists(int(once.read_text())), "it still runs"
        it.again("--retry", "timeout")
        outcome = it.outcome()
        assert outcome.statuses["timed_out"] == 1
        return outcome


@fault("host memory exhausted", in_ci=True)
def memory_exhausted(folder: Path) -> Outcome:
    """A trial asks for more memory than its process may have; the kernel refuses."""
    once = folder / "once"
    methods = f"{{name: toy_hog, megabytes: 2000, once: {once}}}, toy_noop"
    with scene(folder, methods=methods, words=INLINE, seconds=0.1) as it:
        run = it.start()
        it.until(once.exists)
        it.harmed()
        it.ended(run, 0)
        it.again()
        outcome = it.outcome()
        assert outcome.statuses["out_of_memory"] == 1
        return outcome


@fault("device memory exhausted", in_ci=True)
def device_exhausted(folder: Path) -> Outcome:
    """A trial raises what torch raises when a device has no memory left, once."""
    return _troubled(folder, "oom", "out_of_memory", 0)


@fault("a number is NaN")
def not_a_number(folder: Path) -> Outcome:
    """The weights of a trial turn into NaN, once."""
    return _troubled(folder, "nan", "failed", 3)


def _troubled(folder: Path, how: str, status: str, ended: int) -> Outcome:
    once = folder / "once"
    text = (
        f"{{models: [toy], methods: [{{name: toy_trouble, how: {how}, once: {once}}},"
        " toy_drop], tasks: [toy_sum], ratios: [0.1, 0.3, 0.5, 0.7]}"
    )
    with scene(folder, grid_text=text, words=INLINE) as it:
        run = it.start()
        it.until(once.exists)
        it.harmed()
        it.ended(run, ended)
        it.again(*(["--retry", "failed"] if ended else []))
        outcome = it.outcome()
        assert outcome.statuses[status] == 1
        return outcome


@fault("two drivers started at once")
def two_drivers(folder: Path) -> Outcome:
    """The same line typed twice in the same moment: one runs, one says who does."""
    with scene(folder, words=INLINE) as it:
        first, second = it.start(), it.start()
        it.harmed()
        codes = sorted((first.end(), second.end()))
        assert codes == [0, 2], f"exits {codes}: {first.said} {second.said}"
        winner, loser = sorted((first, second), key=lambda r: r.process.returncode)
        assert f"process {winner.process.pid} on " in loser.said, loser.said
        it.ended(winner, 0)
        it.again()
        return it.outcome()

"""Faults of the place where the store lies, and of its files."""

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket import Bucket
from ceph import ceph
from faults import fault, scene
from scene import INLINE, Outcome, Scene

from results.queries.attempts import read_statuses
from results.queries.db import ask
from results.storage.store import open_store


@fault("store's disk full")
def disk_full(folder: Path) -> Outcome:
    """The file system of the store fills up; later there is room again."""
    with disk(folder) as place, scene(folder, store=f"{place}/store") as it:
        run = it.under_way()
        with fill(place):
            it.harmed()
            it.ended(run, 2)
        assert "cannot grow" in run.said, run.said
        it.again()
        outcome = it.outcome()
        assert "failed" not in outcome.statuses, "a trial was blamed for the disk"
        return outcome


@fault("store read-only")
def read_only(folder: Path) -> Outcome:
    """The store's file system turns read-only in the middle, and back."""
    with disk(folder) as place, scene(folder, store=f"{place}/store") as it:
        run = it.under_way()
        it.until(lambda: remounted(place, "ro"), run)
        it.harmed()
        it.ended(run, 2)
        assert "does not allow this" in run.said, run.said
        assert remounted(place, "rw")
        it.again()
        outcome = it.outcome()
        assert "failed" not in outcome.statuses, "a trial was blamed for the disk"
        return outcome


@fault("store slow")
def slow(folder: Path) -> Outcome:
    """Every write takes a second."""
    with scene(folder, seconds=0.01, words=INLINE) as it:
        run = it.under_way(env={"SABOTAGE_SLOW_STORE": "1"})
        it.harmed()
        it.ended(run, 0)
        it.again()
        return it.outcome()


@fault("object store answers 503")
def unavailable(folder: Path) -> Outcome:
    """An S3 endpoint answers 503 to everything for eight seconds, then heals."""
    with _bucket(folder) as (bucket, it):
        run = it.under_way()
        it.harmed()
        bucket.fail_for(8)
        it.recovered(run)
        it.ended(run, 0)
        assert bucket.refused > 3
        it.again()
        return it.outcome()


@fault("object store gone")
def gone(folder: Path) -> Outcome:
    """An S3 endpoint answers 503 for longer than anyone waits, and heals later."""
    with _bucket(folder) as (bucket, it):
        run = it.under_way(env={"SHRINKGRID_PATIENCE": "2"})
        it.harmed()
        bucket.fail_for(3600)
        it.ended(run, 2)
        assert "cannot be used" in run.said, run.said
        bucket.fail_for(0)
        it.again()
        return it.outcome()


@fault("a real S3 server killed")
def server_killed(folder: Path) -> Outcome:
    """SIGKILL to the gateway of Ceph, which starts again after eight seconds."""
    with (
        ceph() as server,
        scene(folder, store=server.uri, words=INLINE, seconds=1) as it,
    ):
        run = it.under_way()
        it.harmed()
        server.kill_gateway()
        time.sleep(8)
        server.serve()
        it.recovered(run)
        it.ended(run, 0)
        it.again()
        return it.outcome()


@fault("a Parquet file cut off")
def cut_off(folder: Path) -> Outcome:
    """One file of finished rows loses its second half while a grid runs."""
    with scene(folder, words=INLINE) as it:
        run = it.under_way(count=4)
        it.harmed()
        victim = sorted(Path(it.store, "trials").glob("*.parquet"))[0]
        whole = victim.read_bytes()
        victim.write_bytes(whole[: len(whole) // 2])
        it.ended(run, 0)
        assert sum(it.finished().values()) == 11, "the damage was not seen"
        it.again()
        assert list(Path(it.store, "damaged").iterdir()), "the file was not kept"
        return it.outcome()


@fault("an artifact corrupted")
def corrupted(folder: Path) -> Outcome:
    """A bit of a trained checkpoint changes between two runs."""
    text = (
        "{models: [toy_trained], methods: [toy_drop], ratios: [0.1, 0.2, 0.3, 0.4],"
        "tasks: [{name: toy_data, seconds: 0.5}]}"
    )
    with scene(folder, grid_text=text, words=INLINE) as it:
        run = it.under_way(count=2)
        run.kill()
        it.harmed()
        it.ended(run, "killed")
        (weights,) = Path(it.store, "artifacts").glob("*/model.safetensors")
        content = bytearray(weights.read_bytes())
        content[-1] ^= 0x40
        weights.write_bytes(content)
        it.again()
        assert list(Path(it.store, "damaged").glob("artifacts-*")), "it was believed"
        query = "SELECT ratio, value FROM scores WHERE metric = 'total' ORDER BY ratio"
        rows = ask(open_store(it.store), query).rows
        # 32 weights of 1, of which the first int(32 ratio) are zeroed.
        assert rows == [(0.1, 29.0), (0.2, 26.0), (0.3, 23.0), (0.4, 20.0)]
        return it.outcome()


@fault("clocks differ")
def clocks(folder: Path) -> Outcome:
    """A run on a machine a day ahead is killed and goes on on one a day behind."""
    once = folder / "once"
    text = (
        f"{{models: [toy], methods: [{{name: toy_trouble, once: {once}}}, toy_noop],"
        "ratios: [0.1, 0.5], tasks: [{name: toy_slow, seconds: 0.3}], seeds: [0, 1, 2]}"
    )
    with scene(folder, grid_text=text, words=INLINE) as it:
        run = it.under_way(env={"SABOTAGE_CLOCK": "86400"})
        statuses = read_statuses(open_store(it.store)).values()
        assert "failed" in statuses
        run.kill()
        it.harmed()
        it.ended(run, "killed")
        it.clock = -86400
        it.env["SABOTAGE_CLOCK"] = str(it.clock)
        it.again("--retry", "failed")
        store = open_store(it.store)
        newest = ask(store, "SELECT DISTINCT status FROM newest").rows
        assert newest == [("ok",)], "an older failure hides a newer success"
        days = ask(store, "SELECT max(started_at) - min(started_at) FROM trials").rows
        assert days[0][0].days >= 1, "the clocks did not differ"
        return it.outcome()


@contextlib.contextmanager
def _bucket(folder: Path) -> Iterator[tuple[Bucket, Scene]]:
    """A scene with its store in a bucket."""
    with (
        Bucket() as bucket,
        scene(folder, store=bucket.uri, words=INLINE, seconds=1) as it,
    ):
        yield bucket, it


@contextlib.contextmanager
def fill(place: Path) -> Iterator[None]:
    """Leave no room on a file system while the block runs."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def disk(folder: Path, megabytes: int = 4) -> Iterator[Path]:
    """A file system in memory under ``folder``."""
    if os.geteuid():
        pytest.skip("only root mounts a file system")
    place = folder / "disk"
    place.mkdir()
    size = f"size={megabytes}m"
    words = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
    if subprocess.run(words, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remounted(place: Path, how: str) -> bool:
    """Whether it could be done; while a file is open for writing it cannot."""
    words = ["mount", "-o", f"remount,{how}", str(place)]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode in (0, errno.EBUSY, 32), done.stderr
    return done.returncode == 0

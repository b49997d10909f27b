"""A real S3 server on loopback: the gateway of a Ceph that stores in memory."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import free_port

NEEDS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
BUCKET = "store"
_KEY, _SECRET = "key", "secret"
_CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{port}
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
ms bind msgr2 = false
mon allow pool size one = true
mon osd min in ratio = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw enable usage log = false
rgw enable gc threads = false
rgw enable lc threads = false
"""


class Ceph:
    """One bucket in a cluster of three processes; its gateway can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway = free_port()
        self.config = folder / "ceph.conf"
        self._port = free_port()
        self._fsid = str(uuid.uuid4())
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def uri(self) -> str:
        """Names a store in the bucket."""
        at = f"127.0.0.1%3A{self.gateway}"
        where = f"s3://{_KEY}:{_SECRET}@{BUCKET}/here"
        return f"{where}?scheme=http&endpoint_override={at}"

    def start(self) -> None:
        """Make the cluster, a user and the bucket."""
        from pyarrow.fs import S3FileSystem

        filled = {"folder": self.folder, "fsid": self._fsid, "port": self._port}
        self.config.write_text(_CONFIG.format(**filled, gateway=self.gateway))
        for name in ("mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        names = str(self.folder / "monmap")
        at = f"v1:127.0.0.1:{self._port}"
        _run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", at, names)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", names)
        self._serve("ceph-mon", "-i", "a")
        number, own = "0", str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", "60", "osd", "new", own)
        self._run("ceph-osd", "-i", number, "--mkfs", "--osd-uuid", own)
        self._serve("ceph-osd", "-i", number)
        words = ["user", "create", "--uid=user", "--display-name=user"]
        words += [f"--access-key={_KEY}", f"--secret={_SECRET}"]
        self._run("radosgw-admin", *words)
        self.serve()
        at = f"127.0.0.1:{self.gateway}"
        keys = {"access_key": _KEY, "secret_key": _SECRET}
        bucket = S3FileSystem(
            **keys, scheme="http", endpoint_override=at, allow_bucket_creation=True
        )
        bucket.create_dir(BUCKET)

    def serve(self) -> None:
        """Start the gateway, and wait until it answers."""
        self._serve("radosgw", "-n", "client.rgw")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.gateway), 1).close()
                return
            time.sleep(0.2)
        raise AssertionError("the gateway does not answer")

    def kill_gateway(self) -> None:
        """SIGKILL to the gateway: requests break off, and new ones find nobody."""
        self._end("radosgw")

    def close(self) -> None:
        """End every process."""
        for name in reversed(list(self._running)):
            self._end(name)

    def _end(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def _run(self, program: str, *words: str) -> None:
        _run(program, "-c", str(self.config), *words)

    def _serve(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as out:
            self._running[program] = subprocess.Popen(
                [program, "-c", str(self.config), "-f", *words], stdout=out, stderr=out
            )


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


@contextlib.contextmanager
def ceph() -> Iterator[Ceph]:
    """A server that ends with the block; the test is skipped where Ceph is missing."""
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} here (apt-get install ceph-mon ceph-osd radosgw)")
    # Unix sockets have short paths: pytest's own folders are too deep.
    with tempfile.TemporaryDirectory(prefix="sg", dir="/tmp") as folder:
        made = Ceph(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.close()

"""A run on this machine's own Ray: nobody else can reach it, nothing secret stays."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hosts
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-key-of-the-bucket",
    "HF_TOKEN": "hf_plantedTokenOfTheHub",
    "TOY_API_TOKEN": "planted-token-that-a-failure-prints",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
}
GRID = """
models: [toy]
methods: [{name: toy_trouble, how: raise}]
ratios: [0.1, 0.5]
tasks: [{name: toy_slow, seconds: 4}]
"""
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets."""
    made = Path(tempfile.mkdtemp(prefix="sg"))
    yield made
    shutil.rmtree(made)


def test_every_port_is_on_loopback_and_no_secret_stays(toys, folder):
    grid, store = folder / "grid.yaml", folder / "store"
    grid.write_text(GRID)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", str(grid), "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **SECRETS, "RAY_TMPDIR": str(folder / "ray")},
        cwd=Path(__file__).parents[2],
    )

    def busy() -> bool:
        marked = list((store / "running").glob("*.json"))
        assert process.poll() is None or marked, process.stdout.read()
        return bool(marked)

    hosts.until(busy, 300, "a running trial")
    family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(True))]
    names = {psutil.Process(pid).name() for pid in family}
    ports = [
        connection.laddr
        for pid in family
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    said = process.communicate()[0]

    assert {"gcs_server", "raylet"} <= names
    assert len(ports) > 4
    assert {port.ip for port in ports} <= LOOPBACK
    assert process.returncode == 3, said
    assert b"broken on purpose" in said
    texts = {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert any("/logs/raylet" in name for name in texts), "Ray's logs were read"
    assert any(name.endswith(".parquet") for name in texts)
    texts["the terminal"] = said
    for secret in SECRETS.values():
        told = [name for name, text in texts.items() if secret.encode() in text]
        assert not told, f"{secret} is in {told}"

"""`submit`, `attach`, `cancel` without a cluster: what is sent, and what is refused."""

import asyncio
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.cli import _status
from harness.cli import submit as submit_verbs
from harness.executors import job_server, shipping

GRID = "models: [toy]\nmethods: [dense]\ntasks: [toy_sum]\n"


@pytest.fixture
def submit(tmp_path: Path, toys: Path, monkeypatch, capsys):
    """Type `submit` with more words; gives exit status and stderr."""
    monkeypatch.delenv("SHRINKGRID_STORE", raising=False)
    monkeypatch.delenv("SHRINKGRID_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.yaml").write_text(GRID)

    def types(*words: str) -> tuple[int, str]:
        status = _status(["submit", "grid.yaml", *words])
        return status, capsys.readouterr().err

    return types


@pytest.fixture
def web_page():
    """The address of a server that is not a Ray dashboard."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>a coffee machine</html>")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_store_of_this_machine_is_refused(submit):
    status, said = submit()

    assert status == 2
    assert "--store 'store' is a folder of this machine; name an object store" in said


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ("127.0.0.1:1", "nothing answers at http://127.0.0.1:1: "),
        ("http://127.0.0.1:1/", "nothing answers at http://127.0.0.1:1: "),
        (
            "ray://127.0.0.1:10001",
            "is not the address of a dashboard: write http://HOST:8265",
        ),
        ("http://127.0.0.1:port", "is not a valid address: nonnumeric port"),
    ],
)
def test_no_cluster_at_the_address_is_one_message(submit, cluster, reason):
    status, said = submit("--store", "/data/store", "--cluster", cluster)

    assert status == 2
    assert reason in said
    assert said.count("\n") == 1


def test_something_else_at_the_address_is_one_message(submit, web_page):
    status, said = submit("--store", "/data/store", "--cluster", web_page)

    assert status == 2
    assert f"what answers at {web_page} is not a Ray dashboard" in said


def test_errors_of_the_grid_are_told_before_a_cluster_is_asked(submit, tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID.replace("dense", "densee"))

    status, said = submit("--store", "s3://bucket/store", "--cluster", "127.0.0.1:1")

    assert status == 2
    assert "no method called 'densee'. Did you mean 'dense'?" in said


def test_what_is_shipped_plans_the_grid_where_nothing_else_is(toys, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    (tmp_path / "store").mkdir()
    (tmp_path / ".env").write_text("SECRET=1")
    shipped = tmp_path / "shipped"
    shipped.mkdir()

    plugins = shipping.pack(shipped, grid)

    names = {str(p.relative_to(shipped)) for p in shipped.rglob("*") if p.is_file()}
    assert {p.name for p in shipped.iterdir()} == {
        *shipping.PACKAGES,
        "grid.yaml",
        "plugins",
    }
    assert "plugins/0/toys/toys.py" in names
    assert {"harness/__main__.py", "results/sql/20_newest.sql"} <= names
    assert not [n for n in names if "__pycache__" in n or "/." in n]
    done = subprocess.run(
        [sys.executable, "-c", PLAN],
        cwd=shipped,
        env={"PATH": os.environ["PATH"], "SHRINKGRID_PLUGINS": ":".join(plugins)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(shipped) in done.stdout
    assert '"state": "run"' in done.stdout


# In a worker the folder comes first on the path; here it must beat the checkout.
PLAN = """
import sys
from harness.cli import main
import harness, methods, tasks, results
print(harness.__file__)
main(["plan", "grid.yaml", "--store", "none", "--json"])
"""


@pytest.mark.parametrize(
    ("status", "of_the_run", "shown", "says"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("SUCCEEDED", None, 0, ""),
        ("FAILED", 3, 3, ""),
        ("FAILED", 2, 2, ""),
        ("FAILED", None, 1, "error: Ray could not run job1: no such file"),
        # Ray stores no exit status for a job that was cancelled.
        ("STOPPED", None, 130, "job1 was cancelled; the same `submit` resumes it"),
    ],
)
def test_attach_ends_as_the_run_ended(
    monkeypatch, capsys, status, of_the_run, shown, says
):
    ended = job_server.State(status=status, exit_status=of_the_run, says="no such file")

    class Ended:
        address = "http://127.0.0.1:8265"

        def state(self, job: str) -> job_server.State:
            return ended

        def follow(self, job: str, show: object) -> job_server.State:
            return ended

    monkeypatch.setattr(submit_verbs, "_jobs", lambda cluster: Ended())

    assert _status(["attach", "job1"]) == shown
    assert capsys.readouterr().err.strip() == says


class Broken:
    """Ray's client on a bad line: the log breaks off, is read again, and ends."""

    def __init__(self, *readings: list[str]) -> None:
        self.readings = list(readings)

    async def tail_job_logs(self, job: str):
        """Pieces of the log from its beginning."""
        for piece in self.readings.pop(0):
            if piece == "broken":
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield piece


def test_a_log_that_broke_off_goes_on_where_it_broke():
    told: list[str] = []
    client = Broken(["one\n", "tw", "broken"], ["one", "\ntwo\n", "three\n"])
    log = job_server._Log(client, "job", told.append)

    with pytest.raises(RuntimeError):
        asyncio.run(log.tail())
    asyncio.run(log.tail())

    assert "".join(told) == "one\ntwo\nthree\n"


def test_shipped_code_says_which_commit_it_was(monkeypatch):
    from harness.planning import provenance

    monkeypatch.setenv("SHRINKGRID_COMMIT", "abc123+")

    assert provenance.commit.__wrapped__() == ("abc123", True)
    monkeypatch.setenv("SHRINKGRID_COMMIT", "abc123")
    assert provenance.commit.__wrapped__() == ("abc123", False)


def test_options_of_run_travel_with_the_job():
    from harness.cli.submit import _options

    words = _options(
        {
            "only": "method = 'svd'",
            "retry": ("oom", "timeout"),
            "refresh": None,
            "fail_fast": True,
            "max_failures": 3,
            "changed": {"ratios": [0.2], "name": "mine"},
        }
    )

    assert words == [
        "--only",
        "method = 'svd'",
        "--retry",
        "oom",
        "--retry",
        "timeout",
        "--fail-fast",
        "--max-failures",
        "3",
        "--set",
        "ratios=[0.2]",
        "--set",
        'name="mine"',
    ]

"""A grid on three hosts that share neither code nor working directory."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from hosts import TOKEN, until
from lab import (
    AWS,
    AWS_SECRET,
    BUCKET,
    CHECKOUT,
    HUB_SECRET,
    TOYS,
    Lab,
    answers,
    finished,
    rows,
    running_jobs,
    start_rays,
)

from results.storage import leases
from results.storage.store import open_store

WHY_NOT = hosts.impossible()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    laptop = tmp_path_factory.mktemp("laptop")
    shared = tmp_path_factory.mktemp("shared")
    (laptop / "toys.py").write_text(TOYS.read_text())
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **AWS}
    env["TOY_API_TOKEN"] = HUB_SECRET  # which a failing trial prints
    with hosts.hosts(3, hidden=[laptop], env=env) as three:
        made = Lab(hosts=three, laptop=laptop, shared=shared)
        place = ["--host", "10.77.0.1", "--port", "5005"]
        three.start(1, sys.executable, "-m", "moto.server", *place, log="s3.log")
        start_rays(made)
        until(lambda: answers(made, "10.77.0.1", 5005), 300, "the object store")
        yield made


def test_a_grid_runs_on_three_hosts_that_share_only_the_store(lab):
    store = str(lab.shared / "store")
    grid = lab.grid("far", seconds=1.0)

    code, out, err = lab.type("submit", grid, "--store", store)

    assert code == 0, err + out
    assert "toy on toy_slow" in out, "the log brings the leaderboard back"
    found = rows(store)
    assert [r["status"] for r in found] == ["ok"] * 6
    assert {r["host"] for r in found} == {"host1", "host2", "host3"}
    # From here, with no cluster: the store alone says how far it is.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "harness",
            "status",
            "--store",
            store,
            "--format",
            "json",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    (state,) = json.loads(done.stdout)
    assert (state["trials"], state["done"], state["missing"]) == (6, 6, 0)


def test_a_grid_runs_with_its_store_in_a_bucket(lab):
    make = f"urlopen(Request('{BUCKET}/lab', method='PUT'))"
    code = f"from urllib.request import Request, urlopen; {make}"
    subprocess.run(lab.hosts.typed(1, sys.executable, "-c", code), check=True)

    code, out, err = lab.type("submit", lab.grid("s3"), "--store", "s3://lab/store")

    assert code == 0, err + out
    query = "SELECT count(*) AS n, count(DISTINCT host) AS hosts FROM newest"
    words = ["sql", query, "--store", "s3://lab/store", "--format", "json"]
    _, out, _ = lab.type(*words)
    assert json.loads(out) == [{"n": 6, "hosts": 3}]


def test_a_closed_terminal_ends_nothing_and_cancel_drains(lab):
    store = str(lab.shared / "closed")
    grid = lab.grid("closed", seconds=3.0, seeds=list(range(12)))
    code, out, err = lab.type("submit", grid, "--store", store, "--detach")
    assert code == 0, err
    job = out.strip()
    first = lab.start("attach", job)
    until(lambda: running_jobs(store) > 0, 90, "running work")
    first.send_signal(signal.SIGHUP)  # the terminal is closed
    first.communicate(timeout=30)
    second = lab.start("attach")  # by default the newest
    assert second.stdout is not None
    # The log comes from its first line, though the job is older than this view of it.
    assert any("36 to run" in line for line in iter(second.stdout.readline, ""))
    until(lambda: len(finished(store)) >= 1, 300, "a finished trial")

    second.send_signal(signal.SIGINT)
    out, err = second.communicate(timeout=30)

    assert second.returncode == 130
    assert f"{job} is still running" in err
    code, out, err = lab.type("cancel", job)
    assert code == 0, err
    assert "running trials finish" in err
    assert "stopped early: asked to stop" in out
    done = finished(store)
    assert 3 <= len(done) < 36
    assert not leases.read_all(open_store(store))
    assert lab.type("attach", job)[0] == 130, "a drained run is not complete"
    assert "has ended already: stopped" in lab.type("cancel", job)[2]

    code, out, err = lab.type("submit", grid, "--store", store, "--only", "seed > 10")

    assert code == 0, err + out
    found = rows(store)
    assert done <= finished(store)
    assert {r["seed"] for r in found} >= {11}
    assert len({r["trial"] for r in found}) == len(found), "nothing ran twice"


def test_who_has_no_token_is_refused(lab):
    store = str(lab.shared / "refused")
    grid = lab.grid("refused")
    none = {"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": "disabled"}
    for env in (none, {"RAY_AUTH_TOKEN": "f" * 64}):
        code, _, err = lab.type("submit", grid, "--store", store, env=env)
        assert code == 2
        assert "http://127.0.0.1:8265 refuses access" in err

    words = ["run", grid, "--store", store, "--address", "10.77.0.1:6379"]
    code, _, err = lab.type(*words, env=none)

    assert code == 2
    assert "put its token into ~/.ray/auth_token" in err
    assert not Path(store, "trials").exists()
    # The dashboard listens on the head's loopback alone.
    assert answers(lab, "127.0.0.1", 8265)
    assert not answers(lab, "10.77.0.1", 8265)
    assert not answers(lab, "10.77.0.1", 8265, host=2)


def test_what_the_hosts_lack_is_said_before_anything_runs(lab):
    address = ["--address", "10.77.0.1:6379"]
    grid = lab.grid("wrong")
    blind = str(lab.laptop / "store")
    big = lab.grid("big")
    path = lab.laptop / big
    path.write_text(path.read_text().replace("gpus: 1", "gpus: 2, cpus: 8"))

    unseen = lab.type("run", grid, "--store", blind, *address)
    plugin = {"SHRINKGRID_PLUGINS": str(lab.laptop / "toys.py")}
    store = str(lab.shared / "wrong")
    lacking = lab.type("run", grid, "--store", store, *address, env=plugin)
    too_big = lab.type("submit", big, "--store", store)

    assert [unseen[0], lacking[0], too_big[0]] == [2, 2, 2]
    assert "is not the one that the driver sees" in unseen[2]
    assert "host1, host2, host3: " in unseen[2]
    assert "code is missing there: SHRINKGRID_PLUGINS names" in lacking[2]
    assert "`shrinkgrid submit` ships it" in lacking[2]
    assert "requests 8 CPUs, 2 GPUs" in too_big[1]
    assert "host1 with 1 CPU, 1 GPU" in too_big[1]
    assert not Path(store, "trials").exists()
    assert not Path(blind, "trials").exists()


def test_no_secret_is_in_a_row_a_log_or_a_file(lab):
    store = str(lab.shared / "secret")
    grid = lab.grid("secret", methods="{name: toy_trouble, how: raise}")

    code, out, err = lab.type("submit", grid, "--store", store)

    assert code == 3, err + out
    assert "broken on purpose" in out
    texts = {"the terminal": (out + err).encode()}
    for place in (lab.shared, lab.hosts.folder):
        texts |= {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert any("/logs/job-driver-" in name for name in texts), "Ray's logs were read"
    assert any(name.endswith(".parquet") for name in texts)
    for secret in (TOKEN, AWS_SECRET, HUB_SECRET):
        told = [name for name, text in texts.items() if secret.encode() in text]
        assert not told, f"{secret} is in {told}"


def test_the_hosts_are_gone_afterwards_and_no_process_stays():
    def there() -> str:
        words = ["ip", "netns"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    with hosts.hosts(1) as one:
        sleeper = one.start(1, "sleep", "1000", log="sleep.log")
        assert f"{one.prefix}1" in there()

    assert sleeper.poll() is not None
    assert one.prefix not in there()
    assert not one.folder.exists()

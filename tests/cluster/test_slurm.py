"""The Slurm script on three hosts; `srun` and `scontrol` are stand-ins."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hosts
import pytest

from results.queries.db import ask
from results.storage.store import open_store

WHY_NOT = hosts.impossible()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]
CHECKOUT = Path(__file__).parents[2]
JOB = str(os.getpid())
GRID = """
models: [toy]
methods: [toy_noop]
ratios: [0.1, 0.2, 0.3]
tasks: [{name: toy_slow, seconds: 1.5}]
seeds: [0, 1, 2, 3]
"""
SCONTROL = "#!/bin/bash\nprintf 'host1\\nhost2\\nhost3\\n'\n"
# Runs its command on the host that --nodelist names. Real machines have a /tmp each;
# here all but the first, where the driver is, get one for Ray.
SRUN = """#!/bin/bash
for word; do case $word in --nodelist=*) node=${word#*=} ;; esac; done
while [[ $1 == --* ]]; do shift; done
number=${node#host}
if [[ $1 == hostname ]]; then echo "10.77.0.$number 10.9.9.9"; exit; fi
# The first Ray of each node does not join in time.
if [[ "$1 $2" == "ray start" && ! -e late$number ]]; then touch late$number; exit 1; fi
if [[ "$1 $2" == "ray start" && $number == "${ABSENT-}" ]]; then exit 1; fi
prepare="hostname $node; mkdir -p /tmp/ray-$SLURM_JOB_ID"
((number > 1)) && prepare+="; mount -t tmpfs none /tmp/ray-$SLURM_JOB_ID"
exec ip netns exec "$PREFIX$number" unshare --mount --uts \\
  bash -c "$prepare; exec \\"\\$@\\"" - "$@"
"""


def test_the_script_drains_on_term_and_the_same_line_goes_on(tmp_path):
    grid, store = tmp_path / "grid.yaml", tmp_path / "store"
    grid.write_text(GRID)

    first = run(grid, store, stop_after=1)
    done = finished(store)
    second = run(grid, store)

    assert first.returncode == 130, first.stderr
    assert first.late == second.late == {"late1", "late2", "late3"}
    assert "stopped early: asked to stop" in first.stderr
    assert 0 < len(done) < 12
    assert second.returncode == 0, second.stderr
    rows = ask(open_store(store), "FROM trials").dicts()
    assert [r["status"] for r in rows] == ["ok"] * 12
    assert done <= {r["attempt"] for r in rows}
    assert {r["host"] for r in rows} == {"host1", "host2", "host3"}


def test_a_node_that_never_joins_is_named_and_ends_the_job(tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)

    ended = run(grid, tmp_path / "store", ABSENT="3", SHRINKGRID_JOIN_SECONDS="120")

    assert ended.returncode == 2, ended.stderr
    (said,) = re.findall("^error: (.*)$", ended.stderr, flags=re.M)
    named, _, rest = said.partition(" did not join Ray within 120 s")
    # On a busy machine the second host may be late, too.
    assert named in ("host3", "host2 host3")
    assert "--exclude" in rest


def run(grid: Path, store: Path, stop_after: int | None = None, **env: str):
    """What `sbatch` would run; TERM once so many trials are finished."""
    stand_ins = grid.parent / "bin"
    stand_ins.mkdir(exist_ok=True)
    for name, text in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    with hosts.hosts(3) as three:
        three.env |= {
            "PREFIX": three.prefix,
            "PATH": f"{stand_ins}:{three.env['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "SHRINKGRID_PLUGINS": str(CHECKOUT / "tests" / "toys" / "toys.py"),
            "SHRINKGRID_VENV": sys.prefix,
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NODELIST": "host[1-3]",
            **env,
        }
        script = [str(CHECKOUT / "deploy" / "slurm.sh"), str(grid), str(store)]
        process = subprocess.Popen(
            three.typed(1, "bash", *script),
            stdout=subprocess.DEVNULL,
            stderr=(three.folder / "script.log").open("wb"),
            cwd=three.folder,
            env=three.env,
        )
        if stop_after is not None:
            hosts.until(lambda: len(finished(store)) >= stop_after, 600, "a trial")
            process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=600)
        said = (three.folder / "script.log").read_text()
        late = {path.name for path in three.folder.glob("late*")}
    shutil.rmtree(f"/tmp/ray-{JOB}", ignore_errors=True)
    return SimpleNamespace(returncode=code, stderr=said, late=late)


def finished(store: Path) -> set[str]:
    if not (store / "format.json").exists():
        return set()
    query = "SELECT attempt FROM trials WHERE status = 'ok'"
    return {attempt for (attempt,) in ask(open_store(store), query).rows}

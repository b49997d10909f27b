"""Faults of the machines of a cluster, as processes of this one."""

from pathlib import Path

from faults import fault, scene
from machines import TOKEN, free_port, head, node
from scene import INLINE, Outcome


@fault("a node killed")
def node_killed(folder: Path) -> Outcome:
    """SIGKILL to every process of one of two nodes while a trial runs on it."""
    port = free_port()
    words = ("--address", f"127.0.0.1:{port}")
    with (
        head(port),
        node(port) as second,
        scene(folder, seconds=2, words=words, env=TOKEN) as it,
    ):
        run = it.under_way()
        _, trial = it.worker(run, among=second.has)
        second.kill()
        it.harmed(trial)
        it.ended(run, 0)
        it.again()
        outcome = it.outcome()
        assert outcome.statuses["lost"] == 1
        return outcome


@fault("the head killed and restarted")
def head_killed(folder: Path) -> Outcome:
    """SIGKILL to every process of the head, which holds the cluster's state."""
    port = free_port()
    words = ("--address", f"127.0.0.1:{port}")
    with scene(folder, seconds=1, words=words, env=TOKEN) as it:
        with head(port, cpus=2) as first:
            run = it.under_way()
            first.kill()
            it.harmed()
            it.ended(run, 2)
            assert "the head of the cluster" in run.said, run.said
        with head(port, cpus=2):
            it.again()
            return it.outcome()


@fault("Ray versions differ")
def versions_differ(folder: Path) -> Outcome:
    """A driver joins a cluster whose head says that it is of another version."""
    port = free_port()
    with head(port, version="2.7.0"), scene(folder, words=INLINE, seconds=0.1) as it:
        run = it.start("--address", f"127.0.0.1:{port}", env=TOKEN)
        it.harmed()
        it.ended(run, 2)
        assert "Ray: 2.7.0" in run.said, run.said
        it.again()
        return it.outcome()

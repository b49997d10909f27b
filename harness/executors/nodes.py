"""The machines of a cluster: what there is, and whether each can do the work."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.core import BenchError
from harness.executors.job_server import first_line
from harness.planning.plan import Bundle
from harness.planning.resources import Resources

# A custom resource that a cluster has where machines are added when work asks for them
# (cluster.yaml): what no machine has yet may still come.
AUTOSCALED = "autoscaled"
PATIENCE = 180.0  # seconds that a machine gets to look; one that is slower is trusted
GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node of the cluster.

    Args:
        id: Ray's id of it.
        name: Its host name.
        cpus: Processors that Ray may give away.
        gpus: Devices.
        memory: Bytes.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    memory: float

    def fits(self, asked: Resources) -> bool:
        """Whether a bundle could run here, were nothing else running."""
        return (
            asked.cpus <= self.cpus
            and (asked.gpus or 0) <= self.gpus
            and (asked.bytes or 0) <= self.memory
        )

    def __str__(self) -> str:
        """What it has, in words."""
        return (
            f"{self.name} with {self.cpus:g} CPUs, {self.gpus:g} GPUs, "
            f"{self.memory / GB:.3g} GB"
        )


def alive() -> list[Machine]:
    """The machines that there are, of the cluster that this process has joined."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            found.append(
                Machine(
                    id=node["NodeID"],
                    name=node["NodeManagerHostname"],
                    cpus=has.get("CPU", 0.0),
                    gpus=has.get("GPU", 0.0),
                    memory=has.get("memory", 0.0),
                )
            )
    return found


def refuse_misfits(bundles: Sequence[Bundle]) -> None:
    """Refuse what no machine could ever run.

    Args:
        bundles: Everything that is to run.

    Raises:
        BenchError: Naming each method and model that asks for too much, and what the
            machines have.
    """
    if AUTOSCALED in ray.cluster_resources():
        return
    there = alive()
    wrong = []
    for bundle in bundles:
        asked, first = bundle.resources, bundle.trials[0]
        if not any(machine.fits(asked) for machine in there):
            memory = f" and {asked.bytes / GB:.3g} GB" if asked.bytes else ""
            wrong.append(
                f"{first.method.name} on {first.model.name} asks for {asked.cpus:g} "
                f"CPUs and {asked.gpus or 0:g} GPUs{memory}; no machine has that "
                f"({_words(there)}): change `resources` in the grid"
            )
    if wrong:
        raise BenchError(*dict.fromkeys(wrong))


def _words(there: Sequence[Machine], most: int = 3) -> str:
    """The largest machines, in words."""
    largest = sorted(there, key=lambda m: (-m.gpus, -m.cpus, -m.memory))
    more = f" and {len(there) - most} more" if len(there) > most else ""
    return "there is " + "; ".join(map(str, largest[:most])) + more


def refuse_strangers(bundles: Sequence[Bundle], store: str) -> None:
    """Refuse machines that do not see the store or lack code, before work starts.

    Each machine that could run a bundle reads a fresh file of the store, writes one,
    and imports the plugins that the bundles name. Where none is there yet, one is
    waited for.

    Args:
        bundles: Everything that is to run.
        store: The store's URI; it exists.

    Raises:
        BenchError: Naming each machine with what it cannot do.
    """
    from results.storage.store import open_store

    folder = open_store(store).folder
    probe = f"running/{uuid.uuid4().hex}.probe"
    folder.write(probe, b"")
    try:
        wrong = _ask(bundles, store, probe)
    finally:
        folder.delete(probe)
    if wrong:
        raise BenchError(
            *(f"{', '.join(sorted(names))}: {why}" for why, names in wrong.items())
        )


def _ask(bundles: Sequence[Bundle], store: str, probe: str) -> dict[str, set[str]]:
    """What is wrong -> the machines that said so."""
    plugins = sorted(set(_plugins(bundles)))
    look = ray.remote(max_retries=0)(_look)
    asked = bundles[0].resources
    able = [m for m in alive() if any(m.fits(b.resources) for b in bundles)]
    refs: dict[Any, str] = {}
    for machine in able:
        there = NodeAffinitySchedulingStrategy(node_id=machine.id, soft=False)
        remote = look.options(num_cpus=0, scheduling_strategy=there)
        refs[remote.remote(store, probe, plugins)] = machine.name
    if not able:
        remote = look.options(num_cpus=asked.cpus, num_gpus=asked.gpus or 0)
        refs[remote.remote(store, probe, plugins)] = "a new machine"
    timeout = PATIENCE if able else None  # a new machine takes as long as it takes
    ready, _ = ray.wait(list(refs), num_returns=len(refs), timeout=timeout)
    wrong: dict[str, set[str]] = {}
    for ref in ready:
        for why in _answer(ref):
            wrong.setdefault(why, set()).add(refs[ref])
    return wrong


def _plugins(bundles: Sequence[Bundle]) -> Iterator[tuple[str, str]]:
    for bundle in bundles:
        first = bundle.trials[0]
        yield "method", first.method.plugin
        yield "model", first.model.plugin
        yield from (("task", trial.task.plugin) for trial in bundle.trials)


def _answer(ref: Any) -> list[str]:
    try:
        found: list[str] = ray.get(ref)
    except exceptions.RuntimeEnvSetupError as why:
        return [f"the code cannot be set up there: {first_line(why)}"]
    except exceptions.RayTaskError as why:
        return [f"code is missing there: {_last_line(why)}"]
    except exceptions.RayError:  # it died meanwhile; bundles go elsewhere
        return []
    return found


def _look(store: str, probe: str, plugins: Sequence[tuple[str, str]]) -> list[str]:
    """A worker's task: what this machine cannot do."""
    from harness.registry import find
    from results.errors import StoreError
    from results.storage import folder as places

    wrong = []
    try:
        place = places.folder(store)
        if place.read(probe) is None:
            wrong.append(
                f"the store {store} is not the one that the driver sees; name an "
                "object store, or a folder that every machine mounts, with --store"
            )
        else:
            mine = f"{probe}.{socket.gethostname()}"
            place.write(mine, b"")
            place.delete(mine)
    except (StoreError, OSError) as why:
        wrong.append(f"the store cannot be used there: {why}")
    for kind, name in plugins:
        try:
            find(kind, name)
        except BenchError as why:
            wrong += [
                f"code is missing there: {mistake}; `shrinkgrid submit` ships it"
                for mistake in why.mistakes
            ]
    return list(dict.fromkeys(wrong))


def _last_line(why: BaseException) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[-1]

"""Chooses the executor of a run by the address that was given."""

from __future__ import annotations

from harness.running.driver import Executor
from results.storage.store import Store


def executor_for(address: str, cpus: int | None, store: Store) -> Executor:
    """Returns the executor for an address; the caller closes it.

    Args:
        address: ``inline`` runs bundles in this process; everything else is an address
            of Ray (``local``, ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``).
        cpus: Processors of a local Ray; None takes all.
        store: Its finished trials give the estimates by which bundles are packed.

    Returns:
        The executor, connected.

    Raises:
        BenchError: If there is no such cluster.
    """
    if address == "inline":
        from harness.executors.inline import Inline

        return Inline()
    from harness.executors.on_ray import OnRay
    from harness.scheduling.predictor import Predictor

    return OnRay(address, cpus, predictor=Predictor.of(store))

"""What Ray runs on a worker: bundles and artifacts, in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import ray

from harness.planning.messages import ArtifactJob, Built, Event, Job
from harness.planning.plan import Bundle
from harness.planning.resources import ResourceRequest
from harness.running import tasks
from harness.running.job_log import JobLog
from harness.running.process import Died, Owner, Raised
from harness.running.tasks import FreeMemory
from results.outcomes import ErrorClass
from results.storage import leases

# Starts the processes that run plugins; one in each worker of Ray.
_owner = Owner(dumps=ray.cloudpickle.dumps)


def bundle(
    job: Job, request: ResourceRequest, free: FreeMemory | None, *built: Built
) -> Iterator[list[Event]]:
    """Run a bundle in a process that runs no other method.

    Args:
        job: The bundle of trials to run.
        request: What it may use.
        free: Measures free memory; None asks the device.
        *built: How building the bundle's artifacts ended.

    Yields:
        The next events; ``crashed`` if the process died.
    """
    _take_place(request.gpus)
    arguments = (job, request, free, *built)
    poisoned = False
    try:
        for events in _owner.run(
            _code(job.bundle), tasks.bundle, *arguments, log=JobLog(job)
        ):
            # After such an error no call of CUDA works in that process: the next bundle
            # gets a new child, even if it has the same plugins.
            poisoned = poisoned or any(event.poisoned for event in events)
            yield events
        if poisoned:
            _owner.close_child()
    except Died as why:
        yield [_crashed(why, why.error_class)]
    except Raised as why:
        yield [_crashed(why, ErrorClass.BUG)]


def _crashed(why: Died | Raised, error_class: ErrorClass) -> Event:
    return Event(
        what="crashed",
        status=error_class.status,
        error_class=error_class,
        summary=why.reason,
        details=why.output,
    )


def artifact(job: ArtifactJob, gpus: float) -> Built:
    """Build one artifact in a process that runs no other model.

    Args:
        job: The artifact to build.
        gpus: Devices that Ray gave this worker.

    Returns:
        How it ended.
    """
    _take_place(gpus)
    wanted = job.artifact
    key = f"{wanted.kind} {wanted.model.label} {wanted.dtype}"
    try:
        (built,) = _owner.run(key, tasks.artifact, job)
        return cast(Built, built)
    except (Died, Raised) as why:
        return Built(
            artifact=wanted.id,
            error=why.reason,
            error_class=why.error_class if isinstance(why, Died) else ErrorClass.BUG,
            traceback=why.output,
        )


def _code(bundle: Bundle) -> str:
    """The plugins of a bundle; bundles with equal plugins may share a process."""
    first = bundle.trials[0]
    # Sorted, so that the order of tasks in a bundle makes no other key.
    names = sorted({trial.task.label for trial in bundle.trials})
    return " ".join([first.method.label, first.model.label, *names])


def _take_place(gpus: float) -> None:
    """Put into the environment which node this is, and whether it has a device."""
    os.environ[leases.NODE] = ray.get_runtime_context().get_node_id()
    # A worker without a share must not use a device that happens to be visible.
    os.environ["SHRINKGRID_DEVICE"] = "any" if gpus else "cpu"


def forms(work: Callable[..., Any], **options: Any) -> dict[bool, Any]:
    """Make a Ray task of a function, without a device and with one.

    A worker with a device ends after one task, and with it what leaked on the device.

    Args:
        work: The function that runs on the worker.
        **options: Options of the task.

    Returns:
        Whether the task has a device -> the task.
    """
    return {
        False: ray.remote(max_retries=0, **options)(work),
        True: ray.remote(max_retries=0, max_calls=1, **options)(work),
    }

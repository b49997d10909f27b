"""The job server of a Ray cluster: submits, follows and drains grids."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.options import nearest

PATIENCE = 10.0  # seconds that the job server gets to answer
REACH_AGAIN = 5  # times that a log which broke off is asked for again
# Between the signal that drains a job and the one that kills it. Ray's own 3 seconds
# would cut off the running trial.
DRAIN_SECONDS = 3600
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
CHATTY = (  # loggers of Ray's client whose messages do not help a user
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
)
MARK = "shrinkgrid"  # the key in a job's metadata that says it is one of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """State of a job.

    Args:
        status: As Ray names it: ``PENDING``, ``RUNNING`` or one of ``ENDED``.
        exit_status: Exit status of the run; None while it runs, or if it never started.
        says: Ray's explanation of the job's state.
    """

    status: str
    exit_status: int | None
    says: str

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED


class Jobs:
    """The job server of a cluster.

    Args:
        address: Of the head's dashboard, ``http://HOST:8265`` or ``HOST:8265``.

    Raises:
        BenchError: If no job server answers there, or it refuses access.
    """

    def __init__(self, address: str) -> None:
        self.address = (address if "://" in address else f"http://{address}").rstrip(
            "/"
        )
        if not self.address.startswith(("http://", "https://")):
            raise BenchError(
                f"--cluster {address!r} is not the address of a dashboard: write "
                "http://HOST:8265 (grids are submitted to the head's dashboard, not to "
                "Ray's own port)"
            )
        _answers(self.address)
        self._client = _client(self.address)

    def submit(
        self, words: Sequence[str], folder: Path, told: Mapping[str, str]
    ) -> str:
        """Start ``shrinkgrid WORDS`` on the cluster's head, in a copy of a folder.

        Args:
            words: Command-line arguments after ``shrinkgrid``.
            folder: Its content is sent; see ``shipping.pack``.
            told: Environment variables of the run.

        Returns:
            The job's id.
        """
        variables = [f"{key}={value}" for key, value in told.items()]
        # `exec`, so that the signal that drains reaches the driver and no shell.
        line = ["exec", "env", *variables, "python3", "-m", "harness", *words]
        with _explained(self.address):
            job: str = self._client.submit_job(
                entrypoint=shlex.join(line),
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_SECONDS)},
                },
                metadata={MARK: shlex.join(words)},
            )
        return job

    def state(self, job: str) -> State:
        """Return the state of a job.

        Args:
            job: The job's id at the job server.

        Returns:
            Its state.

        Raises:
            BenchError: If the cluster has no such job; names those that it has.
        """
        with _explained(self.address):
            try:
                info = self._client.get_job_info(job)
            except RuntimeError as why:
                if "404" not in str(why):
                    raise
                raise BenchError(
                    f"{nearest('job', job, self.ours())} (at {self.address})"
                ) from why
        return State(
            status=str(info.status.value),
            exit_status=info.driver_exit_code,
            says=str(info.message or ""),
        )

    def ours(self) -> list[str]:
        """Ids of the grids that were submitted to this cluster, newest first."""
        with _explained(self.address):
            jobs = self._client.list_jobs()
        found = [j for j in jobs if j.submission_id and MARK in (j.metadata or {})]
        found.sort(key=lambda j: -(j.start_time or 0))
        return [str(j.submission_id) for j in found]

    def follow(self, job: str, show: Callable[[str], None]) -> State:
        """Show a job's log from its first line until the job has ended.

        If the connection breaks, it is opened again and the log continues there.

        Args:
            job: The job's id at the job server.
            show: Gets pieces of text.

        Returns:
            How the job ended.

        Raises:
            BenchError: If the cluster cannot be reached any more.
        """
        log = _Log(self._client, job, show)
        lost = ""
        for attempt in range(REACH_AGAIN):
            try:
                asyncio.run(log.tail())
                state = self._settled(job)
                if state.ended:
                    return state
                lost = "the log ended before the job did"
            except (OSError, RuntimeError, BenchError) as why:
                lost = str(why)
            time.sleep(2.0**attempt)
        raise BenchError(
            f"lost the log of {job} ({lost}); the job may still be running: "
            f"`shrinkgrid attach {job} --cluster {self.address}`"
        )

    def _settled(self, job: str) -> State:
        """The state once Ray has noted the end; the log ends a moment before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            state = self.state(job)
            if state.ended or time.monotonic() > deadline:
                return state
            time.sleep(0.2)

    def drain(self, job: str) -> bool:
        """Ask a job to finish its running trials and end.

        Args:
            job: The job's id at the job server.

        Returns:
            Whether the job was still running.
        """
        with _explained(self.address):
            return bool(self._client.stop_job(job))


class _Log:
    """The log of a job as it grows; a second read continues after the first."""

    def __init__(self, client: Any, job: str, show: Callable[[str], None]) -> None:
        self.client = client
        self.job = job
        self.show = show
        self.shown = 0

    async def tail(self) -> None:
        """Show what is new until the server closes the log."""
        import aiohttp

        # The server sends the log from its beginning each time; only what is beyond
        # ``shown`` is new.
        seen = 0
        try:
            async for piece in self.client.tail_job_logs(self.job):
                seen += len(piece)
                new = min(len(piece), seen - self.shown)
                if new > 0:
                    self.show(piece[-new:])
                    self.shown = seen
        except aiohttp.ClientError as why:
            raise OSError(str(why)) from why


def _answers(address: str) -> None:
    """Raise a clear error at once if no job server answers."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=PATIENCE) as page:
            # Another web server at this port would answer, too, with something else.
            if "ray_version" in json.load(page):
                return
    except urllib.error.HTTPError as why:
        if why.code in (401, 403):  # explained once the token was tried
            return
    except http.client.InvalidURL as why:
        raise BenchError(
            f"--cluster {address!r} is not a valid address: {why}"
        ) from why
    except (ValueError, http.client.HTTPException):  # something else answers
        pass
    except OSError as why:
        raise BenchError(
            f"nothing answers at {address}: {getattr(why, 'reason', why)}; start a "
            "cluster there (docs/how-to/cluster.md), or forward its dashboard here "
            "with `ray dashboard cluster.yaml`"
        ) from why
    raise BenchError(
        f"what answers at {address} is not a Ray dashboard; its usual port is 8265"
    )


def _client(address: str) -> Any:
    """Ray's own client, with the token of this machine where there is one."""
    token = Path.home() / ".ray" / "auth_token"
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray lets this variable win over the address that it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    with _explained(address):  # Ray reads the variables when it is imported
        from ray.job_submission import JobSubmissionClient

        for name in CHATTY:
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        return JobSubmissionClient(address)


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turn an exception of Ray's client into an error that says what to do."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as why:
        raise BenchError(
            f"{address} refuses access: {first_line(why)}; put the cluster's "
            "token into ~/.ray/auth_token, or into the variable RAY_AUTH_TOKEN"
        ) from why
    except (RuntimeError, OSError, ValueError) as why:
        raise BenchError(f"{address} refuses: {first_line(why)}") from why


def first_line(why: BaseException) -> str:
    """Return the first line of the message of an error."""
    return (str(why).strip().splitlines() or [type(why).__name__])[0]

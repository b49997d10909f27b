"""The attempts that a store holds, and which of them counts for each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from results.outcomes import FINISHED
from results.queries.db import ask
from results.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One stored execution of a trial, as much of it as resuming needs.

    Args:
        attempt: Id of the attempt.
        trial: Id of the trial that it executed.
        status: Status of the attempt, one of ``results.schema.STATUSES``.
        error_class: ``infra``, ``oom`` ...; None for an attempt without an error.
        code_digest: Digest of the code that ran it.
    """

    attempt: str
    trial: str
    status: str
    error_class: str | None
    code_digest: str | None


def read_attempts(store: Store) -> dict[str, list[Attempt]]:
    """Reads every stored attempt: trial id -> its attempts, the oldest first."""
    columns = ", ".join(Attempt.__slots__)
    query = f"SELECT {columns} FROM trials ORDER BY started_at, attempt"
    found: dict[str, list[Attempt]] = {}
    for values in ask(store, query).rows:
        one = Attempt(**dict(zip(Attempt.__slots__, values, strict=True)))
        found.setdefault(one.trial, []).append(one)
    return found


def statuses_of(tries: Mapping[str, Sequence[Attempt]]) -> dict[str, str]:
    """The status of each trial, by the rule of the view ``newest``.

    The newest finished attempt counts; if no attempt finished, the newest one counts.

    Args:
        tries: Trial id -> its attempts, as ``read_attempts`` returns them.

    Returns:
        Trial id -> status.
    """
    return {
        trial: next(
            (a.status for a in reversed(listed) if a.status in FINISHED),
            listed[-1].status,
        )
        for trial, listed in tries.items()
    }


def read_statuses(store: Store) -> dict[str, str]:
    """Reads the status of each trial of a store; see ``statuses_of`` for the rule."""
    return statuses_of(read_attempts(store))

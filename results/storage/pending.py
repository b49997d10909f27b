"""Rows of quick trials, before one file of a table holds all of them.

A trial of a few milliseconds would wait longer for its own Parquet file than for its
numbers. The rows of such trials are appended to a file of their job,
``running/JOB.rows``, one line each, durable; some of them later become one Parquet file
at once. What is in the file when a worker is killed, the driver or the next run stores
(``harness.running.recovery``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from results.errors import StoreError
from results.storage import encoding, row_checks
from results.storage.folder import explained, fsync_folder
from results.storage.store import Store
from results.text import json_reader

_END = ".rows"
Row = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Rows:
    """Attempts that wait for one file.

    Args:
        trials: Rows of ``schema.TRIALS``, in the order in which they ended.
        samples: Rows of ``schema.SAMPLES``, each with its ``attempt``.
        layers: Rows of ``schema.LAYERS``, likewise.
    """

    trials: list[Row] = field(default_factory=list)
    samples: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)

    def add(self, row: Row, samples: Iterable[Row], layers: Iterable[Row]) -> None:
        """One attempt more."""
        self.trials.append(row)
        self.samples += samples
        self.layers += layers

    def leave_out(self, attempts: Container[str]) -> None:
        """Drop attempts that are stored already."""
        self.trials = [r for r in self.trials if r["attempt"] not in attempts]
        self.samples = [r for r in self.samples if r["attempt"] not in attempts]
        self.layers = [r for r in self.layers if r["attempt"] not in attempts]

    def store(self, store: Store) -> None:
        """Commit all of them in one file, named after the first attempt.

        Args:
            store: The store that gets them.

        Raises:
            StoreError: If the store cannot be written.
        """
        if self.trials:
            store.append_all(self.trials, self.samples, self.layers)


class Pending:
    """The rows of a running job that no table holds yet; use as a context.

    A store in a bucket cannot append to a file: each of its rows is stored at once.

    Args:
        store: The store of the job.
        job: Name of the job.
    """

    def __init__(self, store: Store, job: str) -> None:
        self._store = store
        self._path = f"running/{job}{_END}"
        self._rows = Rows()
        self._file: int | None = None

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            if not self:  # else it holds rows that are stored nowhere else
                self._store.folder.delete(self._path)

    def __bool__(self) -> bool:
        return bool(self._rows.trials)

    def append(
        self, row: Row, samples: Sequence[Row], layers: Sequence[Row], *, wait: bool
    ) -> None:
        """Make an attempt durable.

        Args:
            row: As in ``Store.append``.
            samples: Likewise, each with its attempt.
            layers: Likewise.
            wait: Whether the row may wait for ``commit`` outside of the tables. If
                not, it is stored now, in one file with those that wait.

        Raises:
            StoreError: As ``Store.append`` does; the attempt is not stored then.
        """
        wait = wait and self._store.folder.local is not None
        if not wait and not self:
            self._store.append(row, samples, layers)
            return
        # Now, and not when all are committed: the attempt can still become a failure.
        _check(row, samples, layers)
        if wait:
            whole = {"row": row, "samples": samples, "layers": layers}
            self._write(encoding.line(whole))
        self._rows.add(row, samples, layers)
        if not wait:
            self.commit()

    def commit(self) -> None:
        """Store the rows that wait as one file.

        Raises:
            StoreError: If the store cannot be written; the rows still wait.
        """
        if not self:
            return
        self._rows.store(self._store)
        self._rows = Rows()
        if self._file is not None:
            # What stays where this fails is stored already, which the next run sees.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)

    def _write(self, line: bytes) -> None:
        folder = self._store.folder
        assert folder.local is not None
        path = folder.local / self._path
        try:
            if self._file is None:
                path.parent.mkdir(exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._file = os.open(path, flags, 0o644)
                fsync_folder(path.parent)
            view = memoryview(line + b"\n")
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as why:
            raise explained(why, folder.uri) from why


def _check(row: Row, samples: Sequence[Row], layers: Sequence[Row]) -> None:
    """Refuse what a table would refuse."""
    row_checks.check_finite(row)
    tables = {"trials": [row], "samples": samples, "layers": layers}
    for table, rows in tables.items():
        row_checks.check_columns(table, rows)
        left = [one for one in rows if not row_checks.surely_fits(table, one)]
        encoding.table(table, [encoding.line(one) for one in left])


def jobs(store: Store) -> list[str]:
    """Names of the jobs that have such a file."""
    names = store.folder.names("running")
    return [name.removesuffix(_END) for name in names if name.endswith(_END)]


def read(store: Store, job: str) -> Rows:
    """Read the rows that a job has left.

    Args:
        store: The store of the job.
        job: Name of the job.

    Returns:
        The rows of whole lines; a killed worker may have left half of the last one.
        Damaged lines are left out.
    """
    found = Rows()
    text = store.folder.read(f"running/{job}{_END}") or b""
    for line in text.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            value = json_reader.read(line)
            attempt = value["row"], value["samples"], value["layers"]
            with contextlib.suppress(StoreError):
                _check(*attempt)
                found.add(*attempt)
    return found


def delete(store: Store, job: str) -> None:
    """Delete the file of a job."""
    store.folder.delete(f"running/{job}{_END}")

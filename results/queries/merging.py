"""Joins stores: copies the rows of one store that another one does not have yet.

Attempts and plans have ids that no two stores give twice, so a row is copied if its id
is missing. A merge writes one file for each table: first the samples and layers, then
the attempts, then the plans. Each file appears whole or not at all, so a merge that was
killed has copied whole tables, and the same merge again copies the rest.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from results.errors import StoreError
from results.queries import compaction
from results.queries.databases import Connection
from results.queries.db import connected
from results.queries.messages import quoted
from results.queries.reading import reading
from results.schema import TABLES
from results.storage import logs, temporary
from results.storage.folder import explained
from results.storage.store import Store, accept_columns

_KEYS = {
    "samples": "attempt",
    "layers": "attempt",
    "trials": "attempt",
    "plans": "plan",
}
_SHOWN = 3  # ids in a message
_ROW_GROUP = 30_000  # rows; bounds the memory of the writer and of later readers
_READ = " ".join(f"stored.{table}" for table in _KEYS)  # the raw tables
# What two rows of one attempt must have in common.
_OUTCOMES = """
SELECT attempt, md5(concat_ws('|', trial, status, measurements::VARCHAR)) AS outcome
FROM stored.trials
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a merge took from one store.

    Args:
        source: Path or URI of that store.
        attempts: Attempts that were copied.
        plans: Plans that were copied.
        logs: Logs that were copied.
        present: Attempts that the other store had already.
    """

    source: str
    attempts: int
    plans: int
    logs: int
    present: int


def merge(source: Store, target: Store) -> Merged:
    """Copy to ``target`` every row and log of ``source`` that it does not have.

    Runs, readers and writers of both stores may go on meanwhile; what they store later
    is copied by a later merge. ``source`` is only read. Checkpoints and statistics are
    not copied: a run computes them again where it needs them.

    Args:
        source: A folder or a bucket. Files of older code have NULL where they lack a
            column. Columns that this code does not know are copied from a folder.
        target: A folder or a bucket. In a folder, one merge or compaction works at a
            time; two merges into a bucket must not run at the same time.

    Returns:
        How much was copied.

    Raises:
        StoreError: If both are the same store, if they contain an attempt with
            different numbers, or if ``target`` cannot be written; what was copied
            until then is complete, and the same merge again continues.
    """
    if _same(source, target):
        raise StoreError(f"{source.uri} cannot be merged into itself")
    try:
        with _alone(target):
            return _merge(source, target)
    except OSError as why:
        raise explained(why, target.uri) from why


def _same(one: Store, two: Store) -> bool:
    # Resolved: a link to a store is the same store.
    if one.folder.local and two.folder.local:
        return one.folder.local.resolve() == two.folder.local.resolve()
    return one.uri.rstrip("/") == two.uri.rstrip("/")


def _alone(target: Store) -> contextlib.AbstractContextManager[None]:
    if target.folder.local is None:
        return contextlib.nullcontext()
    return compaction.alone(target)


def _merge(source: Store, target: Store) -> Merged:
    # What the target has is read first. An attempt that a run stores there meanwhile
    # has a new id, which the source cannot have.
    known = reading(target, _known)
    if source.mixed:  # readers of the target must then expect other columns, too
        accept_columns(target, source)
    name = f"{uuid.uuid4().hex}.parquet"
    scratch = target.here("scratch")
    parts = {table: temporary.beside(scratch / f"{table}-{name}") for table in _KEYS}
    try:
        copied = reading(source, partial(_write_missing, known=known, parts=parts))
        # In the order of ``_KEYS``: samples before the attempts that they belong to, so
        # that a kill in between leaves no attempt without its samples.
        for table in _KEYS:
            if copied[table]:
                _publish(target, parts[table], f"{table}/compacted/{name}")
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return Merged(
        source=source.uri,
        attempts=copied["trials"],
        plans=copied["plans"],
        logs=_copy_logs(source, target),
        present=copied["present"],
    )


def _copy_logs(source: Store, target: Store) -> int:
    known = set(logs.names(target))
    missing = [name for name in logs.names(source) if name not in known]
    for name in missing:
        text = source.folder.read(f"logs/{name}")
        if text is not None:
            target.folder.write(f"logs/{name}", text)
    return len(missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the target has: its place for messages, keys of each table, outcomes."""

    uri: str
    keys: dict[str, list[str]]
    outcomes: dict[str, str]


def _known(target: Store) -> _Known:
    with connected(target, _READ) as connection:
        keys = {
            table: [
                one
                for (one,) in connection.execute(
                    f"SELECT DISTINCT {key} FROM stored.{table}"
                ).fetchall()
            ]
            for table, key in _KEYS.items()
        }
        outcomes = dict(connection.execute(_OUTCOMES).fetchall())
    return _Known(uri=target.uri, keys=keys, outcomes=outcomes)


def _write_missing(
    source: Store, *, known: _Known, parts: dict[str, Path]
) -> dict[str, int]:
    """Write what the target lacks, one file a table; how many keys it lacked."""
    with connected(source, _READ) as connection:
        found = dict(connection.execute(_OUTCOMES).fetchall())
        # Equal ids with other numbers: a store was edited, and nothing here tells which
        # one.
        common = known.outcomes.keys() & found.keys()
        differ = sorted(one for one in common if known.outcomes[one] != found[one])
        if differ:
            raise _different(source.uri, known.uri, differ)
        written = {
            table: _write_table(connection, table, known.keys[table], part)
            for table, part in parts.items()
        }
    return {**written, "present": len(common)}


def _different(source: str, target: str, attempts: list[str]) -> StoreError:
    more = f" and {len(attempts) - _SHOWN} more" if len(attempts) > _SHOWN else ""
    return StoreError(
        f"{source} and {target} have different numbers for the attempts "
        f"{', '.join(attempts[:_SHOWN])}{more}; one of the stores was changed: remove "
        "the wrong trials from it with `shrinkgrid rm`"
    )


def _write_table(connection: Connection, table: str, known: list[str], to: Path) -> int:
    """Write the rows whose keys are not known; how many keys these are."""
    key = _KEYS[table]
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE known AS SELECT unnest($1::VARCHAR[]) AS id",
        [known],
    )
    kept = f"FROM stored.{table} WHERE {key} NOT IN (SELECT id FROM known)"
    times = [name for name, kind in TABLES[table].items() if kind == "TIMESTAMPTZ"]
    # The views have times of UTC without a zone; files have the zone. A cast would take
    # them for times of this machine's zone. A float has room for the microseconds.
    zoned = ", ".join(f"to_timestamp(epoch_us({t}) / 1000000) AS {t}" for t in times)
    replaced = f"REPLACE ({zoned})" if zoned else ""
    connection.execute(
        f"COPY (SELECT * {replaced} {kept}) TO {quoted(str(to))} (FORMAT parquet, "
        f"COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP})"
    )
    ((keys, rows, written),) = connection.execute(
        f"SELECT count(DISTINCT {key}), count(*), "
        f"(SELECT count(*) FROM read_parquet({quoted(str(to))}, "
        f"hive_partitioning = false)) {kept}"
    ).fetchall()
    # Counted before the file is published, as a compaction does.
    if rows != written:
        raise StoreError(f"merging {table} read {rows} rows, wrote {written}")
    return int(keys)


def _publish(target: Store, beside: Path, path: str) -> None:
    """The commit: the file appears whole under its name."""
    if target.folder.local is None:
        target.folder.write(path, beside.read_bytes())
        return
    (target.folder.local / path).parent.mkdir(parents=True, exist_ok=True)
    compaction.publish(target, beside, path)

"""The store: append-only Parquet in a folder or a bucket; one file commits a trial."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from results.errors import NoStore, StoreError
from results.schema import SCHEMA_VERSION, TABLES, arrow, ddl
from results.storage import encoding, footers, row_checks, temporary
from results.storage import folder as places
from results.storage.folder import Folder
from results.text import json_reader

FORMAT = "format.json"
# The store that comes with the package: what the pages on reproductions show.
PACKAGED = "measured"
_CHUNK = 1000  # rows of a plan that are in memory at a time
# A few rows a file: dictionaries, statistics and compression cost more than they save.
# `compact` writes large files with all three.
_SMALL_FILE = {
    "use_dictionary": False,
    "write_statistics": False,
    "store_schema": False,
    "write_page_checksum": True,  # a reader of a bucket compares them
    "compression": "none",
}


@dataclass(slots=True, kw_only=True)
class Store:
    """An opened store; made by ``open_store``.

    Args:
        folder: Folder that contains the store's files.
        mixed: Whether code with other columns wrote some of its files.
        warnings: What readers found and moved to quarantine; the command line prints
            them.
        snapshot: Table -> its files, where the store is seen as it was at one moment.
        grid: Queries see the trials of this grid only (see ``grids.only``); None for
            all trials.
        connections: What queries have opened over a snapshot, for the next query; None
            where each query opens its own. ``reading`` closes them.
    """

    folder: Folder
    mixed: bool = False
    warnings: list[str] = field(default_factory=list)
    snapshot: Mapping[str, Sequence[str]] | None = None
    grid: str | None = None
    connections: dict[tuple[object, ...], Any] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def uri(self) -> str:
        """The path or URI that opens it again."""
        return self.folder.uri

    def append(
        self,
        row: Mapping[str, Any],
        samples: Iterable[Mapping[str, Any]] = (),
        layers: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Commit one attempt: its parts first, then its row, whole or not at all.

        Args:
            row: Columns of ``schema.TRIALS``; missing ones become NULL.
            samples: Rows of ``schema.SAMPLES``; ``attempt`` may be left out.
            layers: Rows of ``schema.LAYERS``, likewise.

        Raises:
            StoreError: If a column is not known, a number is not finite, or the
                folder cannot be written; nothing is half stored.
        """
        self.append_all([row], samples, layers)

    def append_all(
        self,
        rows: Sequence[Mapping[str, Any]],
        samples: Iterable[Mapping[str, Any]] = (),
        layers: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Commit many attempts in one file, named after the first.

        Args:
            rows: As in ``append``; at least one.
            samples: Per-sample values, as in ``append``.
            layers: The layers of compressed networks, as in ``append``.

        Raises:
            StoreError: As ``append`` does.
        """
        for row in rows:
            row_checks.check_finite(row)
        attempt = str(rows[0]["attempt"])
        always = {"schema_version": SCHEMA_VERSION}
        # ``checked`` is computed once here, and not at each query by every reader.
        trials = [{**always, **row, "checked": row_checks.ranks(row)} for row in rows]
        # Parts first: the row commits the attempt, so that no row lacks its samples.
        # Parts without a row are never read.
        for table, given in (("samples", samples), ("layers", layers)):
            if kept := [{"attempt": attempt, **one} for one in given]:
                self._write(table, attempt, [kept])
        self._write("trials", attempt, [trials])

    def record_plan(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store what a run intends, so that completeness is a query.

        Args:
            rows: Rows of ``schema.PLANS``, all with the same ``plan``; drawn as they
                are written, so that a long plan is never in memory as rows.
        """
        left = iter(rows)
        first = list(islice(left, _CHUNK))
        if first:
            # Chunks until one is empty; the first chunk says the name of the plan.
            rest = iter(lambda: list(islice(left, _CHUNK)), [])
            self._write("plans", str(first[0]["plan"]), chain([first], rest))

    def files(self, table: str) -> list[str]:
        """Paths, relative to the store, of the files that hold a table's rows.

        A compacted file replaces the small files that it was made of, also while
        those are being deleted; so each row is in exactly one of the listed files.
        """
        if self.snapshot is not None:
            return list(self.snapshot[table])
        while True:
            large = self.folder.names(f"{table}/compacted")
            small = self.folder.names(table)
            # A compaction that committed in between may have deleted what was not
            # yet listed; its large file then shows in a second look.
            if self.folder.names(f"{table}/compacted") == large:
                break
        # A list counts only beside its committed file, see
        # ``results.queries.compaction``.
        folded: set[str] = set()
        for name in large:
            if name.endswith(".json") and f"{name[:-5]}.parquet" in large:
                text = self.folder.read(f"{table}/compacted/{name}")
                folded.update(folded_names(table, text))
        paths = [f"{table}/compacted/{name}" for name in large]
        paths += [f"{table}/{name}" for name in small]
        return [p for p in paths if p.endswith(".parquet") and p not in folded]

    def at_this_moment(self) -> Store:
        """The same store, with the files of its tables as they are listed now.

        A reader that lists once sees one state of the store, however often it reads.
        """
        listed = {table: self.files(table) for table in TABLES}
        return replace(self, snapshot=listed)

    def quarantine(self, path: str, reason: str) -> None:
        """Move a damaged file to ``damaged/`` and remember a warning; never deletes."""
        target = f"damaged/{path.replace('/', '-')}"
        # An earlier damaged file of this name is kept, too.
        if self.folder.read(target) is not None:
            target = f"{target}.{time.time_ns()}"
        if not self.folder.move(path, target):
            return  # another reader has, or a compaction has replaced it
        self.warnings.append(
            f"{path} is damaged ({reason}); it was moved to {target}: its trials "
            "count as missing, and the next run computes them"
        )

    def here(self, name: str) -> Path:
        """A folder of this machine for the store's files: its own, or a cache."""
        path = (self.folder.local or _cache(self.uri)) / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise places.explained(why, self.uri) from why
        return path

    def remove_unfinished(self) -> int:
        """Delete files and folders that killed processes of this machine were writing.

        Returns:
            How many were deleted.
        """
        root = self.folder.local or _cache(self.uri)
        places = [root / "scratch", root / "artifacts"]
        if self.folder.local is not None:
            tables = [root / table for table in TABLES]
            places += [root, root / "running", root / "logs", *tables]
            places += [table / "compacted" for table in tables]
        return sum(temporary.remove_dead(folder) for folder in places)

    def scratch(self, name: str) -> Path:
        """A folder of this machine for training checkpoints; it outlives a kill."""
        return self.here(f"scratch/{name}")

    def _write(
        self, table: str, name: str, chunks: Iterable[Sequence[Mapping[str, Any]]]
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # The whole file in memory, then one write: a file of the store appears whole.
        stream = pa.BufferOutputStream()
        with pq.ParquetWriter(stream, arrow(table), **_SMALL_FILE) as writer:
            for rows in chunks:
                row_checks.check_columns(table, rows)
                lines = [encoding.line(row) for row in rows]
                writer.write_table(encoding.table(table, lines))
                if table == "trials" and len(lines) <= footers.MOST:
                    # JSON has no line feed of its own.
                    writer.add_key_value_metadata({footers.KEY: b"\n".join(lines)})
        self.folder.write(f"{table}/{name}.parquet", stream.getvalue())


def folded_names(table: str, text: bytes | None) -> list[str]:
    """Returns the files that a compacted file replaces.

    Args:
        table: The table that they belong to.
        text: Of the list beside the compacted file, None where there is none.

    Returns:
        Paths of Parquet files of that table; nothing else that may stand there, since
        what is listed is deleted.
    """
    found: Any = None
    with contextlib.suppress(ValueError):
        found = json_reader.read(text or b"[]")
    # No "..", no other table: a damaged or foreign list must not delete anything else.
    names = re.compile(rf"{table}/(compacted/)?[^/\\\0]+\.parquet")
    return [
        path
        for path in (found if isinstance(found, list) else [])
        if isinstance(path, str) and names.fullmatch(path)
    ]


def open_store(uri: str | Path, create: bool = False) -> Store:
    """Open the store at a path or URI.

    Args:
        uri: A folder, or a URI that pyarrow knows (``s3://bucket/store``);
            ``measured``, if there is no such folder, is the store of the package.
        create: Whether to make it where there is none, and to write to it.

    Returns:
        The store.

    Raises:
        StoreError: If the folder is missing or is not a store, if a newer version
            wrote it, or if ``create`` is given and it cannot be written.
    """
    if str(uri) == PACKAGED and not Path(PACKAGED).exists():
        if create:
            raise StoreError(
                f"the store {PACKAGED!r} comes with the package and is read-only; name "
                "a folder with --store"
            )
        uri = Path(__file__).parents[1] / PACKAGED
    folder = places.folder(uri)
    text = folder.read(FORMAT)
    if text is None:
        if not create:
            raise NoStore(
                f"no store at {folder.uri}; `shrinkgrid run GRID` makes one, "
                "or name another with --store"
            )
        _refuse_foreign(folder)
        made = {"format": "shrinkgrid", "schema_version": SCHEMA_VERSION}
        folder.write(FORMAT, _dumps(made | {"columns": [_columns_digest()]}))
        return Store(folder=folder)
    known = _read_format(text, folder.uri)
    columns = known.get("columns", [])
    # The store lists the columns of all code that wrote to it. With more than one list
    # readers join files by name, which is slower.
    if create and _columns_digest() not in columns:
        columns = [*columns, _columns_digest()]
        folder.write(FORMAT, _dumps(known | {"columns": columns}))
    elif create and folder.local and not os.access(folder.local, os.W_OK):
        raise StoreError(
            f"the store {folder.uri} is read-only for this user; change its "
            "permissions, or name another with --store"
        )
    return Store(folder=folder, mixed=columns != [_columns_digest()])


def accept_columns(store: Store, other: Store) -> None:
    """Let the readers of a store expect the columns that files of another one have.

    Args:
        store: Gets files with rows of ``other`` next.
        other: Store whose columns may be others than those of this code.
    """
    known = _read_format(store.folder.read(FORMAT) or b"", store.uri)
    theirs = _read_format(other.folder.read(FORMAT) or b"", other.uri)
    columns = known.get("columns", [])
    # Stores of older code list no columns; "" differs from every digest.
    new = [one for one in theirs.get("columns") or [""] if one not in columns]
    if new:
        store.folder.write(FORMAT, _dumps(known | {"columns": [*columns, *new]}))
    store.mixed = True


def new_attempt() -> str:
    """A fresh attempt id; ids sort by the time they were made."""
    # Milliseconds in 12 hexadecimal digits, then 12 random ones.
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"


def _refuse_foreign(folder: Folder) -> None:
    """Refuse to turn a file, or a folder with other files, into a store."""
    path = folder.local
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise StoreError(
            f"the store {path} is a file; a store is a folder: name another "
            "with --store"
        )
    # What starts with a dot is being written: another driver makes the store just now.
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    if any(n[0] != "." for n in names) and folder.read(FORMAT) is None:
        raise StoreError(
            f"{path} is not a store and contains other files; name an empty or a "
            "new folder with --store"
        )


def _read_format(text: bytes, uri: str) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json_reader.read(text)
        version = int(known["schema_version"])
        if not isinstance(known.get("columns", []), list):
            raise TypeError("columns is not a list")
    except (ValueError, KeyError, TypeError, OverflowError) as why:
        raise StoreError(
            f"{uri}/{FORMAT} does not say what the store is ({why}); "
            f'write {{"schema_version": {SCHEMA_VERSION}}} into it to fix it'
        ) from why
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {uri} has schema version {version}, and this shrinkgrid reads "
            f"up to {SCHEMA_VERSION}; install a newer shrinkgrid"
        )
    return known


def _columns_digest() -> str:
    """Returns a digest of the columns, to detect stores with files of other columns."""
    text = "\n".join(map(ddl, TABLES))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _dumps(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _cache(uri: str) -> Path:
    """Returns the folder where this machine caches the files of a store in a bucket."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "shrinkgrid" / hashlib.sha256(uri.encode()).hexdigest()[:16]

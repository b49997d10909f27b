"""Which Parquet files of a store cannot be read, and why."""

from __future__ import annotations

import tempfile
from typing import Any

import duckdb

from results.schema import arrow
from results.storage.store import Store

# What DuckDB raises where one byte of a footer is wrong: its base class, a fault of its
# own, or what comes of a name or a message that is not Unicode.
ODD_ERRORS = (duckdb.Error, RuntimeError, UnicodeDecodeError)


def damage(store: Store, path: str) -> str | None:
    """Why a file cannot be read whole.

    Args:
        store: Store whose files are checked.
        path: Of a Parquet file in it.

    Returns:
        The reason, None where the file is whole.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = store.folder.read(path)
    if content is None:
        return None  # a compaction has replaced it
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        # Every page is decoded and its checksum compared: a wrong byte in the middle
        # shows, too.
        file.read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as why:
        if store.folder.local is None and store.folder.read(path) != content:
            return None  # the bytes changed on the way, and not in the bucket
        return str(why).strip().partition("\n")[0]
    known = arrow(path.partition("/")[0])
    have = file.schema_arrow
    # The first column is the key of the table: without it the file is of another table.
    if known.names[0] not in have.names:
        return f"it has no column {known.names[0]}"
    for field in have:
        if field.name in known.names and not _alike(
            field.type, known.field(field.name).type
        ):
            return f"its column {field.name} is of type {field.type}"
    return _refused(content) if store.folder.local else None  # Arrow reads a bucket


def _refused(content: bytes) -> str | None:
    """Why DuckDB cannot read a file that Arrow can, or None.

    It reads a copy: another process may have deleted the file since, which does not
    count as damage.
    """
    with tempfile.NamedTemporaryFile(suffix=".parquet") as copy:
        copy.write(content)
        copy.flush()
        with duckdb.connect() as connection:
            try:
                connection.execute(
                    "SELECT count(COLUMNS(*)) "
                    "FROM read_parquet(?, hive_partitioning = false)",
                    [copy.name],
                )
                connection.fetchall()
            except ODD_ERRORS as why:
                return str(why).strip().partition("\n")[0]
    return None


def _alike(have: Any, wanted: Any) -> bool:
    """Whether values of an Arrow type can stand in a column of another."""
    import pyarrow.types as kinds

    if kinds.is_list(wanted):
        return kinds.is_list(have) and _alike(have.value_type, wanted.value_type)
    if kinds.is_struct(wanted):
        return kinds.is_struct(have) and all(
            _alike(have.field(f.name).type, f.type)
            for f in wanted
            if have.get_field_index(f.name) >= 0
        )
    texts = kinds.is_string(wanted) and kinds.is_large_string(have)
    return bool(texts or have == wanted)

"""The store's columns, declared once; the writer, the views and the docs read them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from results.outcomes import Status

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
STATUSES = tuple(Status)

# Column -> type, in DuckDB's words.
MEASUREMENT = {
    "metric": "VARCHAR",
    "value": "DOUBLE",
    "unit": "VARCHAR",
    "goal": "VARCHAR",  # min | max | none
    "stderr": "DOUBLE",
    "n": "BIGINT",
    "step": "BIGINT",  # epoch or step of a training curve, NULL for a final number
}

# One row an attempt. `measurements` rides in the same row, so that one rename
# commits the trial with its numbers; the view `measurements` unfolds it.
TRIALS = {
    "attempt": "VARCHAR",
    "trial": "VARCHAR",
    "grid": "VARCHAR",
    "bundle": "VARCHAR",
    "method": "VARCHAR",
    "method_options": "VARCHAR",  # canonical JSON of what differs from the defaults
    "model": "VARCHAR",
    "model_options": "VARCHAR",
    "model_revision": "VARCHAR",
    "task": "VARCHAR",
    "task_options": "VARCHAR",
    "calibration": "VARCHAR",  # canonical JSON, NULL where the method reads none
    "protocol": "VARCHAR",  # hash of protocol_fields
    "protocol_fields": "VARCHAR",  # canonical JSON
    "data_fingerprint": "VARCHAR",
    "ratio": "DOUBLE",
    "ratio_of": "VARCHAR",
    "seed": "BIGINT",
    "identity": "VARCHAR",  # canonical JSON of what the trial id hashes
    "status": "VARCHAR",  # one of `results.outcomes.Status`
    "error_class": "VARCHAR",  # one of `results.outcomes.ErrorClass`, NULL if ok
    "reason": "VARCHAR",
    "traceback": "VARCHAR",
    "started_at": "TIMESTAMPTZ",
    "seconds": "DOUBLE",
    "fit_seconds": "DOUBLE",
    "compress_seconds": "DOUBLE",
    "evaluate_seconds": "DOUBLE",
    "peak_memory_bytes": "BIGINT",
    "peak_device_bytes": "BIGINT",
    "params_dense": "BIGINT",
    "params": "BIGINT",
    "params_nonzero": "BIGINT",
    "bytes_dense": "BIGINT",
    "bytes": "BIGINT",
    "macs_dense": "BIGINT",
    "macs": "BIGINT",
    "achieved_ratio": "DOUBLE",  # in the method's own ratio_of
    "coverage": "DOUBLE",  # share of the block weights that the method treats
    "trained_epochs": "BIGINT",  # by the method; the dense model's own do not count
    "trained_samples": "BIGINT",
    "chance": "DOUBLE",  # what guessing gives in the primary metric, NULL if unknown
    "achieved_params": "DOUBLE",  # 1 - params / params_dense
    "achieved_bytes": "DOUBLE",
    "achieved_macs": "DOUBLE",
    "dtype": "VARCHAR",
    "code_digest": "VARCHAR",
    "commit": "VARCHAR",
    "dirty": "BOOLEAN",
    "versions": "VARCHAR",  # JSON: package -> version
    "host": "VARCHAR",
    "device": "VARCHAR",
    "threads": "BIGINT",
    "node": "VARCHAR",
    "accelerator": "VARCHAR",  # JSON: CUDA, cuDNN, driver, devices; NULL on a CPU
    "precision": "VARCHAR",  # JSON: TF32 and deterministic switches; NULL on a CPU
    "placement": "VARCHAR",  # device | blockwise
    "network": "VARCHAR",  # id of the artifact with the compressed network, or NULL
    "schema_version": "BIGINT",
    "checked": "BOOLEAN",  # true: no number of the row is in the view left_out
    "measurements": "MEASUREMENT[]",
}

SAMPLES = {"attempt": "VARCHAR", "metric": "VARCHAR", "values": "DOUBLE[]"}

# One row a layer of a compressed network, of those that the network's model gives a
# role; none where every layer is as the dense network has it.
LAYERS = {
    "attempt": "VARCHAR",
    "layer": "VARCHAR",  # path of the module
    "position": "BIGINT",  # in the order of the network, from 0
    "role": "VARCHAR",
    "block": "BIGINT",  # NULL outside of the blocks of a language model
    "rank": "BIGINT",  # NULL for a layer that is not stored as factors
    "params_dense": "BIGINT",
    "params": "DOUBLE",  # a tensor that n layers share counts 1/n in each of them
    "nonzero": "DOUBLE",
    "bytes_dense": "BIGINT",
    "bytes": "DOUBLE",
}

# The grid of each run, one row per trial, so that completeness is a query.
PLANS = {
    "plan": "VARCHAR",
    "planned_at": "TIMESTAMPTZ",
    "grid": "VARCHAR",
    "trial": "VARCHAR",
    "bundle": "VARCHAR",
    "method": "VARCHAR",
    "method_options": "VARCHAR",
    "model": "VARCHAR",
    "task": "VARCHAR",
    "task_options": "VARCHAR",
    "ratio": "DOUBLE",
    "seed": "BIGINT",
    "identity": "VARCHAR",
    "unsupported": "VARCHAR",  # the reason, NULL for a trial that can run
    "selected": "BOOLEAN",  # false: ``--only`` or ``--set`` left it out; NULL: true
}

TABLES = {"trials": TRIALS, "samples": SAMPLES, "layers": LAYERS, "plans": PLANS}


def ddl(table: str) -> str:
    """The columns of a table as CREATE TABLE takes them.

    >>> ddl("samples")
    '"attempt" VARCHAR, "metric" VARCHAR, "values" DOUBLE[]'
    """
    inner = ", ".join(f"{name} {kind}" for name, kind in MEASUREMENT.items())
    columns = ", ".join(f'"{name}" {kind}' for name, kind in TABLES[table].items())
    return columns.replace("MEASUREMENT[]", f"STRUCT({inner})[]")


@cache
def arrow(table: str) -> pa.Schema:
    """The columns of a table as the Parquet writer takes them."""
    import pyarrow as pa

    scalars = {
        "VARCHAR": pa.string(),
        "DOUBLE": pa.float64(),
        "BIGINT": pa.int64(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
        "DOUBLE[]": pa.list_(pa.float64()),
    }
    measurement = pa.struct(
        [(name, scalars[kind]) for name, kind in MEASUREMENT.items()]
    )
    kinds = scalars | {"MEASUREMENT[]": pa.list_(measurement)}
    return pa.schema([(name, kinds[kind]) for name, kind in TABLES[table].items()])

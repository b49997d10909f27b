"""The store's columns, declared once; the writer, the views and the docs read them."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1

# Attempt statuses; only the first two count as finished.
STATUSES = (
    "ok",
    "unsupported",
    "failed",
    "out_of_memory",
    "timed_out",
    "cancelled",
    "lost",
)
FINISHED = ("ok", "unsupported")

_TEXT, _REAL, _INT = pa.string(), pa.float64(), pa.int64()

MEASUREMENT = pa.struct(
    [
        ("metric", _TEXT),
        ("value", _REAL),
        ("unit", _TEXT),
        ("goal", _TEXT),  # min | max | none
        ("stderr", _REAL),
        ("n", _INT),
        ("step", _INT),  # epoch or step of a training curve, NULL for a final number
    ]
)

# One row an attempt. `measurements` rides in the same row, so that one rename
# commits the trial with its numbers; the view `measurements` unfolds it.
TRIALS = pa.schema(
    [
        ("attempt", _TEXT),
        ("trial", _TEXT),
        ("grid", _TEXT),
        ("bundle", _TEXT),
        ("method", _TEXT),
        ("method_options", _TEXT),  # canonical JSON of what differs from the defaults
        ("model", _TEXT),
        ("model_options", _TEXT),
        ("model_revision", _TEXT),
        ("task", _TEXT),
        ("task_options", _TEXT),
        ("calibration", _TEXT),  # canonical JSON, NULL where the method reads none
        ("protocol", _TEXT),  # hash of protocol_fields
        ("protocol_fields", _TEXT),  # canonical JSON
        ("data_fingerprint", _TEXT),
        ("ratio", _REAL),
        ("ratio_of", _TEXT),
        ("seed", _INT),
        ("identity", _TEXT),  # canonical JSON of what the trial id hashes
        ("status", _TEXT),
        ("error_class", _TEXT),  # infra | oom | timeout | nan | bug | unsupported
        ("reason", _TEXT),
        ("traceback", _TEXT),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("seconds", _REAL),
        ("fit_seconds", _REAL),
        ("compress_seconds", _REAL),
        ("evaluate_seconds", _REAL),
        ("peak_memory_bytes", _INT),
        ("peak_device_bytes", _INT),
        ("params_dense", _INT),
        ("params", _INT),
        ("params_nonzero", _INT),
        ("bytes_dense", _INT),
        ("bytes", _INT),
        ("macs_dense", _INT),
        ("macs", _INT),
        ("achieved_ratio", _REAL),  # in the method's own ratio_of
        ("achieved_params", _REAL),  # 1 - params / params_dense
        ("achieved_bytes", _REAL),
        ("achieved_macs", _REAL),
        ("dtype", _TEXT),
        ("code_digest", _TEXT),
        ("commit", _TEXT),
        ("dirty", pa.bool_()),
        ("versions", _TEXT),  # JSON: package -> version
        ("host", _TEXT),
        ("device", _TEXT),
        ("threads", _INT),
        ("node", _TEXT),
        ("schema_version", _INT),
        ("measurements", pa.list_(MEASUREMENT)),
    ]
)

SAMPLES = pa.schema(
    [("attempt", _TEXT), ("metric", _TEXT), ("values", pa.list_(_REAL))]
)

# What each run intended, one row a trial, so that completeness is a query.
PLANS = pa.schema(
    [
        ("plan", _TEXT),
        ("planned_at", pa.timestamp("us", tz="UTC")),
        ("grid", _TEXT),
        ("trial", _TEXT),
        ("bundle", _TEXT),
        ("method", _TEXT),
        ("method_options", _TEXT),
        ("model", _TEXT),
        ("task", _TEXT),
        ("task_options", _TEXT),
        ("ratio", _REAL),
        ("seed", _INT),
        ("identity", _TEXT),
        ("unsupported", _TEXT),  # the reason, NULL for a trial that can run
    ]
)

TABLES = {"trials": TRIALS, "samples": SAMPLES, "plans": PLANS}

"""One trial as data for the page: settings, numbers, curve, samples, reproduction."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from results.boards import layer_map
from results.boards.ranking import rounded
from results.queries.db import ask
from results.queries.messages import quoted
from results.storage import logs
from results.storage.store import Store
from results.tables.significance import LOSS_OF
from results.text import json_reader
from results.text.clean import as_seen, clean
from results.text.labels import label, method_label

MOST_SAMPLES = 2000  # per-sample values of a metric that the page holds
_MOST_TRACEBACK = 20_000  # characters
_MOST_LOG = 10_000  # characters, the last ones
_JSON = ("identity", "protocol_fields", "versions", "calibration")
_ATTEMPTS = """
SELECT * FROM trials
WHERE trial IN (SELECT unnest($1::VARCHAR[])) ORDER BY trial, started_at, attempt
"""
_MEASURED = """
SELECT m.* FROM measurements AS m SEMI JOIN
  (SELECT attempt FROM newest WHERE trial IN (SELECT unnest($1::VARCHAR[]))) AS n
  USING (attempt) ORDER BY attempt, metric, step
"""
_SAMPLES = f"""
SELECT s.attempt, s.metric, len(s.values) AS n, s.values[1:{MOST_SAMPLES}] AS values
FROM samples AS s SEMI JOIN
  (SELECT attempt FROM newest WHERE trial IN (SELECT unnest($1::VARCHAR[]))) AS n
  USING (attempt) ORDER BY attempt, metric
"""
_COUNTING = "SELECT attempt FROM newest WHERE trial IN (SELECT unnest($1::VARCHAR[]))"
_SIBLINGS = """
SELECT o.bundle, o.trial, o.method, o.ratio, o.task, o.seed, o.status
FROM newest AS o WHERE bundle IN
  (SELECT bundle FROM newest WHERE trial IN (SELECT unnest($1::VARCHAR[])))
ORDER BY o.bundle, o.ratio, o.task, o.seed LIMIT 5000
"""
_FACTS = (
    *(
        "host",
        "device",
        "threads",
        "dtype",
        "placement",
        "node",
        "commit",
        "dirty",
        "code_digest",
    ),
    *("started_at", "seconds", "fit_seconds", "compress_seconds", "evaluate_seconds"),
    *("peak_memory_bytes", "peak_device_bytes"),
)
_SIZES = ("params", "params_nonzero", "bytes", "macs")


def trials(store: Store, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Build the pages of some trials with one query per table.

    Args:
        store: Where the trials are.
        wanted: Ids of trials; those that are not in the store are left out.

    Returns:
        Trial -> its page.
    """
    given = [list(wanted)]
    attempts: dict[str, list[dict[str, Any]]] = {}
    for row in ask(store, _ATTEMPTS, given).dicts():
        attempts.setdefault(row["trial"], []).append(row)
    counting = {a for (a,) in ask(store, _COUNTING, given).rows}
    measured = _by_attempt(ask(store, _MEASURED, given).dicts())
    samples = _by_attempt(ask(store, _SAMPLES, given).dicts())
    layers = layer_map.maps(store, sorted(counting))
    bundles: dict[str, list[dict[str, Any]]] = {}
    for row in ask(store, _SIBLINGS, given).dicts():
        bundles.setdefault(row.pop("bundle"), []).append(row)
    made = {}
    names = logs.names(store)
    for trial, rows in attempts.items():
        # The attempt that counts, or the last one if its row is not in ``newest``.
        row = next((r for r in rows if r["attempt"] in counting), rows[-1])
        page = _page(row, rows, bundles.get(row["bundle"], []))
        page |= _numbers(measured.get(row["attempt"], []))
        for one in page["metrics"]:
            one["tested_by"] = LOSS_OF.get(one["metric"], one["metric"])
        # The losses of windows, the samples of a perplexity, are means.
        means = {
            one["tested_by"] for one in page["metrics"] if one["metric"] in LOSS_OF
        }
        page["samples"] = [
            {key: rounded_all(one[key]) for key in ("metric", "n", "values")}
            | {"means": one["metric"] in means}
            for one in samples.get(row["attempt"], [])
        ]
        page["layers"] = layers.get(row["attempt"])
        page["log"] = _log(store, rows, names)
        made[trial] = page
    return made


def _log(
    store: Store, attempts: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> str:
    """The end of the log of the newest attempt that has one."""
    tried = [(r["attempt"], r["bundle"]) for r in reversed(attempts)]
    log = logs.of_attempts(store, [pair for pair in tried if all(pair)], names)
    return "" if log is None else as_seen(logs.without_marks(log.text))[-_MOST_LOG:]


def _by_attempt(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["attempt"], []).append(row)
    return found


def _page(
    row: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    bundle: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What was run, where, and what became of it."""
    page = {key: rounded(row[key]) for key in ("trial", "grid", "bundle", "status")}
    page |= {key: rounded(row[key]) for key in ("ratio", "ratio_of", "seed")}
    page["method"] = clean(method_label(row))
    page["base"] = clean(row["method"] or "?")
    page["model"] = clean(label(row["model"], row["model_options"]))
    page["task"] = clean(label(row["task"], row["task_options"]))
    page["reason"] = clean(row["reason"] or "")
    page["error_class"] = row["error_class"]
    page["traceback"] = clean((row["traceback"] or "")[-_MOST_TRACEBACK:])
    page |= {key: _json(row[key]) for key in _JSON}
    page["facts"] = {key: rounded_all(row[key]) for key in _FACTS}
    page["sizes"] = {
        name: [rounded(row.get(f"{name}_dense")), rounded(row[name])] for name in _SIZES
    }
    page["achieved"] = rounded(row["achieved_ratio"])
    page["coverage"] = rounded(row["coverage"])
    keys = ("attempt", "status", "error_class", "reason", "started_at", "seconds")
    page["attempts"] = [{k: rounded_all(one[k]) for k in keys} for one in attempts]
    page["siblings"] = [
        {key: rounded(value) for key, value in one.items()} for one in bundle
    ]
    page["command"] = _command(row)
    return page


def _command(row: Mapping[str, Any]) -> str:
    """Return the command that runs this trial again, into a new store."""
    only = clean(f"trial = {quoted(str(row['trial']))}")
    plain = re.fullmatch(r"trial = '[\w.-]+'", only)  # readable without escapes
    grid = shlex.quote(clean(row["grid"] or "GRID"))
    condition = f'"{only}"' if plain else shlex.quote(only)
    return f"shrinkgrid run {grid} --only {condition} --store again"


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Final numbers, and the points of training curves per metric."""
    final, curves = [], dict[str, list[list[Any]]]()
    for row in rows:
        if row["step"] is None:
            keys = ("metric", "value", "stderr", "unit", "goal", "n")
            final.append({key: rounded(row[key]) for key in keys})
        else:
            point = [row["step"], rounded(row["value"])]
            curves.setdefault(clean(row["metric"]), []).append(point)
    return {"metrics": final, "curves": curves}


def _json(text: str | None) -> Any:
    """Parse a stored JSON column; text that is not JSON is shown as it is."""
    if text is None:
        return None
    found = json_reader.mapping(text)
    return json.loads(clean(json.dumps(found))) if found else clean(text)


def rounded_all(value: Any) -> Any:
    """Round every float of a list, and write times as text in UTC."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if hasattr(value, "isoformat"):
        return f"{value.isoformat(sep=' ', timespec='seconds')} UTC"
    return rounded(value)

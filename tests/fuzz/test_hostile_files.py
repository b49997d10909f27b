"""Files that anybody may have written end in a message, in bounded time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, form, message

HERE = Path(__file__).parent
SECONDS = 20.0  # most of it the first import of torch, on a busy machine
BYTES = 600 * 2**20

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["mlp", "dense", "digits", "../x", "svd", "good", "0.5", "chain"]),
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | scalars, inner, max_size=4)
    ),
    max_leaves=12,
)
GRID = {
    "models": ["mlp"],
    "methods": ["dense", {"name": "magnitude"}],
    "tasks": ["digits"],
    "ratios": [0.5],
    "seeds": [0],
    "exclude": [{"method": "dense"}],
    "resources": {"cpus": 1, "for": [{"model": "mlp", "time": "1m"}]},
    "dtype": "float32",
    "name": "x",
    "calibration": {"samples": 2},
}
PAPER = {
    "title": "t",
    "sources": ["s"],
    "columns": [
        {"name": "a", "metric": "m", "task": "t", "ratio": 0.2},
        {"name": "b", "mean_of": ["a"]},
    ],
    "rows": [
        {"label": "d", "method": "dense", "model": "m", "cells": ["1.5", None]},
        {"label": "s", "method": "svd", "model": "m", "cells": ["2.5", "2.5"]},
    ],
}
LOCK = {"format": 1, "grid": "x", "revisions": {"model mlp": "1"}}
MARKER = {"run": "r", "host": "h", "pid": 1, "started_at": 1.0, "plan": "p"}
MARKER |= {"attempts": [["a", "t"]], "claims": True, "schema_version": 1}
MANIFEST = {"key": "k", "sha256": {"a": "0" * 64, "b/c": "1" * 64}}
LIST = ["trials/good.parquet", "trials/compacted/x.parquet"]
HONEST = {
    "grid": GRID,
    "paper": PAPER,
    "lock": LOCK,
    "marker": MARKER,
    "format": MARKER,
    "manifest": MANIFEST,
    "folded": LIST,
}


def changed(value, path, new):
    """A tree with one of its branches replaced."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = changed(copy[key], path[1:], new)
    return copy


def written(name: str, value: object) -> bytes:
    if name in ("grid", "paper"):
        return yaml.dump(value, allow_unicode=True).encode(errors="surrogatepass")
    return json.dumps(value, default=str).encode()


EXAMPLES = {"folded": 5, "grid": 25, "paper": 25, "parquet": 5}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_file_with_one_hostile_branch_ends_in_a_message(name):
    @settings(
        max_examples=EXAMPLES.get(name, 40),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=5), trees)
    def hostile(path, new):
        data = written(name, changed(HONEST[name], path, new))
        said = message(name, data)  # every other exception fails
        assert "Traceback" not in said

    hostile()


def test_a_saved_network_with_one_hostile_branch_ends_in_a_message():
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=5), trees)
    def hostile(path, new):
        said = message("structure", written("structure", changed(form(), path, new)))
        assert "Traceback" not in said

    hostile()


@pytest.mark.parametrize("name", ["parquet", "weights", "verify"])
def test_bytes_end_in_a_message(name):
    @settings(
        max_examples=EXAMPLES.get(name, 40),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(max_size=300))
    def hostile(data):
        assert "Traceback" not in message(name, data)

    hostile()


@pytest.mark.slow
def test_specimens_end_in_a_message_within_bounds():
    line = [sys.executable, str(HERE / "specimens.py")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"a file ended the process: {done.stderr[-2000:]}"
    found = [json.loads(text) for text in done.stdout.splitlines()]
    assert {name for name, *_ in found} == set(TARGETS)
    assert len(found) > 500
    for name, specimen, ended, seconds, grown in found:
        assert not ended.startswith("!"), f"{name}, {specimen}: {ended}"
        assert seconds < SECONDS, f"{name}, {specimen}: {seconds:.0f} s"
        assert grown < BYTES, f"{name}, {specimen}: {grown / 2**20:.0f} MiB"
    assert sum(bool(ended) for _, _, ended, *_ in found) > 300


def test_an_error_that_is_no_message_is_not_taken_for_one(monkeypatch):
    def broken(data: bytes) -> None:
        raise IndexError("a fault of ours")

    monkeypatch.setitem(TARGETS, "grid", broken)

    with pytest.raises(IndexError):
        message("grid", b"")

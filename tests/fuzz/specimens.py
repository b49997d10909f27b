"""Hostile files, each made to break one thing; run as a program, reads them all.

It prints one JSON line a specimen: target, name, what it ended in, seconds, and by how
many bytes the process grew. A test reads the lines.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
import time
from collections.abc import Iterator

from targets import TARGETS, form, message, place, row, saved

DEEP = 200_000  # levels
OUTSIDE = ("../precious.parquet", "/etc/hostname", "trials/../../precious.parquet")


def grids() -> Iterator[tuple[str, bytes]]:
    """Grid files; most fit a paper's file just as well."""
    honest = "models: [mlp]\nmethods: [dense]\ntasks: [digits]\n"
    yield "deep flow", b"[" * DEEP
    yield "deep flow, closed", b"a: " + b"[" * DEEP + b"]" * DEEP
    yield "deep mappings", b"{a: " * DEEP
    yield "deep block", b"".join(b" " * i + b"-\n" for i in range(1200))
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    yield "billion laughs", laughs.encode()
    merges = "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n"
        for i in range(1, 12)
    )
    yield "billion merges", merges.encode()
    yield "an alias of itself", b"models: &a [*a]\n"
    yield "a mapping in itself", b"&a {? *a : *a}"
    yield "a Python tag", b"!!python/object/apply:os.system ['touch precious']"
    yield "a binary tag", b"models: !!binary aGFsbG8="
    yield "a set", b"models: !!set {mlp, digits}"
    yield "a number of a million digits", f"{honest}seeds: [{'9' * 900_000}]".encode()
    sixties = ":".join(["1"] * 300_000)
    yield "a number of 300,000 sixties", f"{honest}seeds: [{sixties}]".encode()
    for value in ("1e999", ".nan", "-.inf", "0x" + "f" * 5000, "!!float x", "1_0_0"):
        yield f"the ratio {value[:9]}", f"{honest}ratios: [{value}]".encode()
    for value in (2**63, -1, 1e308, "'0'", "[0]", "2026-01-01", "true", "null"):
        yield f"the seed {value}", f"{honest}seeds: [{value}]".encode()
    many = ", ".join(f"{i / 40_000:.6f}" for i in range(40_000))
    seeds = ", ".join(map(str, range(40_000)))
    product = f"{honest}ratios: [{many}]\nseeds: [{seeds}]".encode()
    yield "a product of 1,600,000,000", product
    yield "too many bytes", b"# " + b"x" * 2_000_000
    yield "no text", bytes(range(256))
    yield "UTF-16", honest.encode("utf-16")
    yield "half a character", b'name: "\\ud800"\n' + honest.encode()
    yield "zero bytes", b"\0" * 1000
    yield "keys that are lists", b"? [a, b]\n: 1"
    yield "keys that are equal", b"models: [mlp]\nmodels: [mlp]"
    for name in ("../../../etc/passwd", "/dev/zero", "a\\0b", "x" * 100_000, "~root"):
        for key in ("models", "methods", "tasks"):
            text = honest.replace(f"{key}: [", f'{key}: ["{name}", ')
            yield f"{key} {name[:20]}", text.encode()
    options = {"hidden": [10**30]}, {"hidden": "x"}, {"no": 1}, {"hidden": [[[]]]}
    for given in options:
        item = json.dumps({"name": "mlp", **given})
        yield f"options {given}", honest.replace("mlp", item).encode()
    nested: object = "dense"
    for _ in range(10):
        nested = {"chain": [nested, nested]}
    chain = json.dumps(nested["chain"][0]) if isinstance(nested, dict) else ""
    yield "a chain of chains", honest.replace("dense", chain).encode()[:900_000]
    for asked in (
        "memory: " + "9" * 39 + "GB",
        "time: 1e999",
        "gpus: .inf",
        "cpus: -1",
    ):
        yield f"resources {asked[:15]}", f"{honest}resources: {{{asked}}}".encode()
    stars = "*" * 300 + "a"
    yield "a pattern of stars", f'{honest}exclude: [{{method: "{stars}"}}]'.encode()


def papers() -> Iterator[tuple[str, bytes]]:
    """Files of papers' tables."""
    yield from grids()
    honest = {"title": "t", "columns": [{"name": "c"}], "rows": [{"label": "l"}]}
    for key in ("title", "columns", "rows", "sources", "note"):
        for value in (None, 1, "x", [1], [[]], {"a": 1}, [None], [{"name": {}}]):
            wrong = json.dumps({**honest, key: value})
            yield f"{key} is {value}", wrong.encode()
    for key in ("mean_of", "ratio", "scale", "within", "model", "options", "protocol"):
        for value in (None, "x", [[]], {"a": {"b": []}}, 10**400, [{}], True):
            column = {"name": "c", key: value}
            wrong = json.dumps({**honest, "columns": [column]})
            yield f"column {key} is {str(value)[:9]}", wrong.encode()
    row = {"cells": [[[1]]], "label": "l"}
    yield "cells in cells", json.dumps({**honest, "rows": [row]}).encode()


def texts() -> Iterator[tuple[str, bytes]]:
    """Files of JSON."""
    yield "deep lists", b"[" * DEEP
    yield "deep mappings", b'{"a":' * DEEP
    yield "a number of a million digits", b'{"format": ' + b"9" * 1_000_000 + b"}"
    for value in ("null", "1", "[]", '"x"', "1e999", "NaN", "{}", "", "\xff", "[[[]]]"):
        yield f"only {value}", value.encode("latin-1")
    for number in ("1e999", "-1", "NaN", '"1"', "[]", "null", "9" * 4000):
        for key in ("format", "schema_version", "pid", "started_at"):
            marker = f'"host": "x", "attempts": [[]], "{key}": {number}'
            yield f"{key} {number[:9]}", f"{{{marker}}}".encode()
    yield "columns is a number", b'{"schema_version": 1, "columns": 5}'


def lists() -> Iterator[tuple[str, bytes]]:
    """Lists of files that a compaction stands for, and deletes."""
    yield from texts()
    for path in (*OUTSIDE, "format.json", "trials", "", ".", "plans/x.parquet", "\0"):
        yield f"names {path!r}", json.dumps([path]).encode()
    yield "names a list", b'[["trials/good.parquet"]]'


def manifests() -> Iterator[tuple[str, bytes]]:
    """Manifests of artifacts."""
    yield from texts()
    for name in (*OUTSIDE, "/dev/zero", "", ".", "a/../../../b", "..", "a\0b", "a"):
        listed = {"sha256": {name: "0" * 64}}
        yield f"names {name!r}", json.dumps(listed).encode()
    for listed in ([], {"a": 1}, {"a": None}, "a", {"a": {}}):
        yield f"digests {listed}", json.dumps({"sha256": listed}).encode()


def structures() -> Iterator[tuple[str, bytes]]:
    """Structures of saved networks."""
    yield from texts()
    huge = 10**9
    linear = {"in_features": huge, "out_features": huge, "bias": True}
    low = {"in_features": huge, "out_features": huge, "rank": huge, "bias": False}
    changes: list[tuple[str, dict[str, object]]] = [
        ("a layer of 10^18 weights", {"sizes": {"fc1": linear}}),
        ("low rank 10^18", {"layers": {"head": {"layer": "low_rank", "spec": low}}}),
        ("a layer of no class", {"layers": {"head": {"layer": "x", "spec": {}}}}),
        ("a layer without words", {"layers": {"head": {}}}),
        ("a layer with wrong words", {"layers": {"head": 7}}),
        ("a place that is not there", {"sizes": {"a.b.c": linear}}),
        ("a method as a place", {"same": {"fc1.forward": "fc1.__init__"}}),
        ("tied to nothing", {"tied": {"fc1.weight": "no.weight"}}),
        ("a newer format", {"format": 99}),
        ("no origin", {"origin": {}}),
    ]
    origin = form()["origin"]
    for change in (
        {"model": "../../etc/passwd"},
        {"model": "no/model", "options": {"trust_remote_code": True}},
        {"options": {"hidden": [huge]}},
        {"options": {"hidden": [1] * 100_000}},
        {"shape": {"classes": huge, "input": [huge, huge]}},
        {"shape": None},
        {"model": ["mlp"]},
    ):
        changes.append((f"origin {str(change)[:60]}", {"origin": {**origin, **change}}))
    for name, made in changes:
        yield name, json.dumps({**form(), **made}).encode()


def tensors() -> Iterator[tuple[str, bytes]]:
    """Files of safetensors."""
    honest = (saved() / "model.safetensors").read_bytes()
    yield "nothing", b""
    yield "half", honest[: len(honest) // 2]
    yield "a header of 2^63 bytes", struct.pack("<Q", 2**63) + honest[8:]
    yield "a header of 2^40 bytes", struct.pack("<Q", 2**40) + honest[8:]
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for name, change in {
        "a shape of 2^60": {"shape": [2**60, 2**60]},
        "no room": {"shape": [2**60, 0], "data_offsets": [0, 0]},
        "offsets beyond": {"data_offsets": [0, 2**62]},
        "offsets backwards": {"data_offsets": [8, 0]},
        "no dtype": {"dtype": "F7"},
        "a shape of text": {"shape": ["2"]},
        "a negative shape": {"shape": [-2]},
    }.items():
        yield name, _safetensors(json.dumps({"w": {**one, **change}}).encode())
    same = json.dumps({"a": one, "b": one}).encode()
    yield "overlapping", _safetensors(same)
    yield "a deep header", _safetensors(b'{"a":' * DEEP)
    yield (
        "a million names",
        _safetensors(json.dumps({f"w{i}": one for i in range(100_000)}).encode()),
    )


def _safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + b"\0" * 8


def parquets() -> Iterator[tuple[str, bytes]]:
    """Parquet files of trials."""
    import pyarrow as pa

    from results.schema import arrow

    yield "nothing", b""
    yield "no Parquet", b"PAR1" + bytes(range(256)) + b"PAR1"
    yield "a footer of 2^31 bytes", b"PAR1" + struct.pack("<I", 2**31 - 1) + b"PAR1"
    honest = row(attempt="1" * 24, trial="other")
    yield "half", _parquet(pa.Table.from_pylist([honest]))[:-200]
    wrong: dict[str, object] = {
        "trial": 5,
        "status": [1],
        "started_at": "yesterday",
        "measurements": "none",
        "ratio": "half",
        "attempt": None,
        "seconds": {"a": 1},
    }
    for name, value in wrong.items():
        table = pa.Table.from_pylist([{**honest, name: value}])
        yield f"{name} is {value}", _parquet(table)
    yield "other columns", _parquet(pa.table({"x": [1]}))
    yield "no columns", _parquet(pa.table({}))
    numbers = [{"metric": 1, "value": "x"}]
    yield (
        "measurements of other types",
        _parquet(pa.Table.from_pylist([{**honest, "measurements": numbers}])),
    )
    whole = _parquet(pa.Table.from_pylist([honest], schema=arrow("trials")))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in (
        0,
        2,
        3,
        7,
        15,
        23,
        46,
        48,
        53,
        *range(60, len(whole) - 8 - footer, 197),
    ):
        for wrong_byte in (0x00, 0xFF):
            made = bytearray(whole)
            made[footer + at] = wrong_byte
            yield f"byte {at} of the footer is {wrong_byte}", bytes(made)
    long = {**honest, "reason": "x" * 10**7}
    yield "a reason of ten million characters", _parquet(pa.Table.from_pylist([long]))


def _parquet(table: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = pa.BufferOutputStream()
    pq.write_table(table, stream)
    return bytes(stream.getvalue())


def tables() -> Iterator[tuple[str, bytes]]:
    """Written tables to verify."""
    for name, text in texts():
        yield name, b"5.1[^1]\n\n[^1]: `shrinkgrid " + text[:100_000] + b"`\n"
    for key in (
        {"trials": "x"},
        {"trials": [None]},
        {"trials": [["'"]], "metric": {}},
        {"mean": []},
        {"mean": 5},
        {"mean": [{"mean": [{}]}]},
        {"trials": ["good"], "column": "no"},
        {"trials": ["good"], "metric": "accuracy", "scale": "x"},
        {"trials": ["good"], "metric": "accuracy", "scale": 1e308, "offset": 1e308},
        {"trials": ["good'; DROP TABLE x; --"], "metric": "accuracy"},
        {"trials": ["good"], "column": "reason"},
    ):
        line = f"0.5[^1]\n\n[^1]: `shrinkgrid {json.dumps(key)}`\n"
        yield f"the key {str(key)[:60]}", line.encode()
    yield "no number", b"words"
    yield "a million brackets", b"1[^" * 300_000
    yield "a million digits", b"1," * 300_000 + b"[^1]"
    yield "no text", b"\xff\xfe" * 1000


SPECIMENS = {
    "grid": grids,
    "lock": texts,
    "paper": papers,
    "parquet": parquets,
    "marker": texts,
    "format": texts,
    "folded": lists,
    "manifest": manifests,
    "structure": structures,
    "weights": tensors,
    "verify": tables,
}


def main(names: list[str]) -> None:
    """Read every specimen of the targets named, of all by default."""
    for name in names or TARGETS:
        for specimen, data in SPECIMENS[name]():
            before = _peak()
            began = time.perf_counter()
            try:
                ended = message(name, data)
            except BaseException as why:  # a test tells of it
                ended = f"!{type(why).__name__}: {str(why)[:300]}"
            seconds = time.perf_counter() - began
            line = [name, specimen, ended[:300], seconds, _peak() - before]
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    import shutil

    shutil.rmtree(place(), ignore_errors=True)


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1:])

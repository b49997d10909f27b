"""What reads files that anybody may have written: bytes in, a message out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from harness.core import BenchError
from results.errors import StoreError

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
KEY = "dense-0123456789abcdef"


def target(function: Target) -> Target:
    """Enter a function under its name."""
    TARGETS[function.__name__] = function
    return function


def message(name: str, data: bytes) -> str:
    """Give bytes to a target; every other error than one for a person goes through.

    Args:
        name: Of the target.
        data: A file's content.

    Returns:
        The message that it ended in, empty where the file was taken.
    """
    try:
        TARGETS[name](data)
    except (BenchError, StoreError) as why:
        said = "\n".join(why.errors)
        assert said, "a message says something"
        return said
    return ""


@cache
def place() -> Path:
    """A folder for the files of this process."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def written(name: str, data: bytes) -> Path:
    """A file with that content."""
    path = place() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@target
def grid(data: bytes) -> None:
    """A grid file."""
    from harness.planning import grid as grids

    for point in islice(grids.read(written("grid.yaml", data)).points(), 100):
        assert point.trial.id


@target
def lock(data: bytes) -> None:
    """The lock beside a grid."""
    from harness.planning import lock as locks

    written("locked.lock", data)
    locks.read(written("locked.yaml", b"{}"))


@target
def paper(data: bytes) -> None:
    """The file of a paper's table, shown over a store without trials."""
    from results.tables import paper, published, render

    table = published.read(str(written("paper.yaml", data)))
    made = paper.paper_table(_store("papers"), table, known=[])
    assert render.render(made, "md")


@target
def parquet(data: bytes) -> None:
    """A file of trials in a store that has an honest one too."""
    from results.queries.attempts import read_statuses
    from results.queries.db import ask
    from results.queries.restricted import select as query

    store = _store("parquet")
    path = written("parquet/trials/hostile.parquet", data)
    assert "good" in read_statuses(store), "an honest row was lost"
    query(store, "SELECT count(*), max(len(reason)) FROM trials")
    ask(store, "SELECT count(*) FROM scores")
    aside = place() / "parquet/damaged"
    assert path.exists() or list(aside.iterdir()), "a file was deleted"


@target
def marker(data: bytes) -> None:
    """What says that a worker or a driver is at work."""
    from harness.running.recovery import reconcile
    from results.storage import leases

    store = _store("markers")
    for name in ("a.json", "b.driver", "c.stop", "d.back"):
        written(f"markers/running/{name}", data)
    leases.requested_trials(store, "d")
    leases.owners(store)
    leases.read_all(store)
    reconcile(store)


@target
def format(data: bytes) -> None:
    """What says that a folder is a store."""
    from results.storage.store import open_store

    written("format/format.json", data)
    open_store(place() / "format", create=True)


@target
def folded(data: bytes) -> None:
    """The list of files that a compacted file stands for, which are then deleted."""
    from results.queries.attempts import read_statuses
    from results.queries.compaction import compact

    store = _store("folded")
    outside = written("precious.parquet", b"not the store's")
    written("folded/trials/compacted/x.parquet", _honest())
    written("folded/trials/compacted/x.json", data)
    try:
        read_statuses(store)
        compact(store)
    finally:
        assert outside.is_file(), "a file outside the store was deleted"
        assert (place() / "folded/format.json").is_file(), "the store was deleted"


@target
def manifest(data: bytes) -> None:
    """What says which files an artifact has: fetched from a bucket, then opened."""
    from pyarrow.fs import LocalFileSystem

    from results.storage import artifacts
    from results.storage.folder import RemoteFolder
    from results.storage.store import Store

    for name in ("bucket", "cache"):
        shutil.rmtree(place() / name, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = str(place() / "cache")
    written(f"bucket/artifacts/{KEY}/manifest.json", data)
    for name in ("artifacts/a", "a", f"artifacts/{KEY}/a"):
        written(f"bucket/{name}", b"a")
    folder = RemoteFolder(LocalFileSystem(), str(place() / "bucket"), "s3://fuzz")
    before = _outside("bucket", "cache")
    artifacts.find(Store(folder=folder), KEY)
    assert _outside("bucket", "cache") == before, "a file outside was written"


@target
def structure(data: bytes) -> None:
    """What says how a saved network is built."""
    from harness.toolkit import saved_model as structures

    (saved() / "structure.json").write_bytes(data)
    structures.load(saved())


@target
def weights(data: bytes) -> None:
    """The tensors of a saved network."""
    from harness.toolkit import saved_model as structures

    honest = (saved() / "model.safetensors").read_bytes()
    (saved() / "structure.json").write_text(json.dumps(form()))
    (saved() / "model.safetensors").write_bytes(data)
    try:
        structures.load(saved())
    finally:
        (saved() / "model.safetensors").write_bytes(honest)


@target
def verify(data: bytes) -> None:
    """A written table whose numbers are computed again."""
    from results.tables import verify as verifies

    verifies.verify(_store("verify"), written("table.md", data))


@cache
def saved() -> Path:
    """A small network with a low-rank layer, saved."""
    from harness.models.mlp import MLP
    from harness.toolkit import saved_model as structures
    from methods._kernels.low_rank.layers import LowRank

    model = MLP(hidden=(8,)).build({"classes": 3, "input": [1, 2, 2]}, 0)
    structures.replace(model.net, "head", LowRank(8, 3, 2, bias=True))
    origin = {
        "model": "mlp",
        "options": {"hidden": [8]},
        "revision": "1",
        "shape": {"classes": 3, "input": [1, 2, 2]},
    }
    structures.save(model, origin, place() / "saved")
    honest = (place() / "saved/structure.json").read_bytes()
    (place() / "saved/honest.json").write_bytes(honest)
    return place() / "saved"


def form() -> dict[str, Any]:
    """The structure of the saved network."""
    value: dict[str, Any] = json.loads((saved() / "honest.json").read_text())
    return value


def row(**columns: object) -> dict[str, Any]:
    """A row of the table of trials."""
    number = {"metric": "accuracy", "value": 0.5, "unit": "1", "goal": "max"}
    plain: dict[str, Any] = {"attempt": "0" * 24, "trial": "good", "status": "ok"}
    return {**plain, "measurements": [number], **columns}


@cache
def _honest() -> bytes:
    """A file of one trial."""
    from results.storage.store import open_store

    store = open_store(place() / "template", create=True)
    store.append(row())
    return (place() / "template/trials" / f"{'0' * 24}.parquet").read_bytes()


def _store(name: str) -> Any:
    """A store with one honest trial, made again for each call."""
    from results.storage.store import open_store

    shutil.rmtree(place() / name, ignore_errors=True)
    store = open_store(place() / name, create=True)
    written(f"{name}/trials/good.parquet", _honest())
    return store


def _outside(*names: str) -> set[Path]:
    """Every file of this process but those in some folders."""
    skipped = {place() / name for name in names}
    return {p for p in place().rglob("*") if not skipped & {p, *p.parents}}

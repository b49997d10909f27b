"""What a run needs of this machine, checked before it is needed."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.core import BenchError
from harness.planning.provenance import commit
from harness.registry import discover
from results.errors import NoStore, StoreError
from results.text.counts import counted

PACKAGES = ("ray", "torch", "transformers", "lm-eval", "pyarrow", "duckdb", "rich")
LOW_DISK = 5 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of this machine; its state is ``good``, ``note`` or ``bad``."""

    name: str
    state: str
    says: str


def checks(store: str) -> Iterator[Check]:
    """Look at everything.

    Args:
        store: The store that a run would use.

    Yields:
        One check after the other.
    """
    yield Check(name="python", state="good", says=sys.version.split()[0])
    yield from _packages()
    yield from _plugins()
    yield _device()
    yield _disk(store)
    yield _store(store)
    yield _offline()
    head, dirty = commit()
    says = f"{head[:12]}{' with uncommitted changes' if dirty else ''}" if head else "-"
    yield Check(name="commit", state="good", says=says)


def _packages() -> Iterator[Check]:
    for name in PACKAGES:
        try:
            yield Check(name=name, state="good", says=version(name))
        except PackageNotFoundError:
            yield Check(name=name, state="bad", says=f"missing: pip install {name}")


def _plugins() -> Iterator[Check]:
    for kind in ("method", "model", "task"):
        try:
            found = discover(kind)
        except BenchError as why:
            yield Check(name=f"{kind}s", state="bad", says="; ".join(why.errors))
        else:
            yield Check(name=f"{kind}s", state="good", says=f"{len(found)} import")


def _device() -> Check:
    devices = importlib.import_module("harness.toolkit.devices")
    device = devices.pick()
    says = f"{devices.name(device)}, {os.cpu_count()} processors"
    if device.type == "cpu":
        return Check(name="device", state="note", says=f"no GPU; {says}")
    return Check(name="device", state="good", says=says)


def _disk(store: str) -> Check:
    if "://" in store:
        return Check(name="disk", state="note", says="the store is not on this machine")
    folder = Path(store).absolute()
    # The store may not exist yet: the disk is that of the nearest folder above it.
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    state = "good" if free > LOW_DISK else "bad"
    return Check(name="disk", state=state, says=f"{free / 1e9:.0f} GB free at {folder}")


def _store(store: str) -> Check:
    from results.queries.attempts import read_statuses
    from results.storage.store import open_store

    try:
        opened = open_store(store)
    except StoreError as why:
        state = "note" if isinstance(why, NoStore) else "bad"
        return Check(name="store", state=state, says="; ".join(why.errors))
    says = f"{counted(len(read_statuses(opened)), 'trial')} in {opened.uri}"
    state = "bad" if opened.warnings else "good"
    return Check(name="store", state=state, says="; ".join([says, *opened.warnings]))


def _offline() -> Check:
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    says = "HF_HUB_OFFLINE=1: only cached models and data" if offline else "hub allowed"
    return Check(name="hub", state="note" if offline else "good", says=says)

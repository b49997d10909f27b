"""`gc`: deletes what is not needed, and only when told twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli._common import store_option

if TYPE_CHECKING:
    from pathlib import Path

    from results.storage.store import Store


@click.command()
@store_option
@click.option("--artifacts", is_flag=True, help="Checkpoints and statistics too.")
@click.option("--models", is_flag=True, help="Networks of `run --keep-models` too.")
@click.option("--apply", is_flag=True, help="Delete; without it only list.")
def gc(store: str, artifacts: bool, models: bool, apply: bool) -> None:
    """List files that can be regenerated; --apply deletes them.

    These are checkpoints of trainings, half-written folders, damaged files, and kept
    networks of attempts that failed, that a newer attempt replaced, or that were
    removed. Rows are never touched.
    """
    import shutil

    from harness.core import BenchError
    from results.storage import leases
    from results.storage.store import open_store

    opened = open_store(store)
    if apply and any(m.alive() is not False for m in leases.read_all(opened)):
        raise BenchError(
            f"a run works on {opened.uri}; what it needs must stay: try again when it "
            "has ended (`shrinkgrid status`)"
        )
    total = 0
    for path in _litter(opened, artifacts=artifacts, models=models):
        size = _size(path)
        total += size
        click.echo(f"{size / 1e6:10.1f} MB  {path}")
        if apply and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif apply:  # of a link, only the link
            path.unlink()
    word = "deleted" if apply else "would be deleted (--apply does it)"
    click.echo(f"{total / 1e6:10.1f} MB  {word}")


def _litter(store: Store, *, artifacts: bool, models: bool) -> list[Path]:
    """What a store can lose without losing a number."""
    from harness.running.networks import PREFIX

    found = [p for n in ("scratch", "damaged") for p in sorted(store.here(n).iterdir())]
    needed = set() if models else _networks(store)
    for path in sorted(store.here("artifacts").iterdir()):
        kept = path.name.startswith(PREFIX)
        unused = path.name not in needed if kept else artifacts
        if unused or path.name.endswith(".tmp"):
            found.append(path)
    return found


def _networks(store: Store) -> set[str]:
    """The networks of the attempts that count, which `save-model` takes."""
    from results.queries.db import ask

    if not store.files("trials"):
        return set()
    rows = ask(store, "SELECT network FROM newest WHERE status = 'ok'").rows
    return {str(network) for (network,) in rows}


def _size(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file())

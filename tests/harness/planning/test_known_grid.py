"""A grid from the memory is the grid that the plugins gave."""

import builtins
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core import BenchError
from harness.planning import answers, known_grid
from harness.planning import plan as plans
from harness.planning.configured_plugin import choose, tolerate_unseen
from harness.planning.known_grid import KnownGrid
from harness.registry import discover
from harness.toolkit import identity, texts

GRID = """
name: mine
description: Two words.
models: [{name: gru_seq2seq, units: 8}]
methods: [dense, sb_gru, svd]
ratios: [0.25, 0.5]
tasks: [{name: parallel_text, source: a.txt, target: b.txt}]
seeds: [0, 1]
exclude: [{method: svd, ratio: 0.5}]
resources: {cpus: 2}
"""


@pytest.fixture
def grid(monkeypatch, tmp_path: Path) -> Path:
    """A grid with parallel text, and a memory that is empty and on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(answers, "usable", lambda: True)
    monkeypatch.setattr(answers, "_given", {})
    monkeypatch.setattr(answers, "_recalled", {})
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("one two\n" * 20)
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def read(path: Path, **arguments):
    found, entry = known_grid.read(path, **arguments)
    answers.keep(entry)
    return found


def test_a_known_grid_equals_the_grid_that_was_read(grid):
    first, again = read(grid), read(grid)

    assert not isinstance(first, KnownGrid)
    assert isinstance(again, KnownGrid)
    assert list(again.points()) == list(first.points())
    assert [p.trial.id for p in again.points()] == [p.trial.id for p in first.points()]
    assert list(again.pairs()) == list(first.pairs())
    assert (again.name, again.description) == ("mine", "Two words.")
    assert again.resources == first.resources
    made, known = plans.make(first), plans.make(again)
    assert known.bundles == made.bundles
    assert known.unsupported == made.unsupported
    assert known.without_dense() == made.without_dense()


def test_new_data_gives_new_trials(grid):
    before = {p.trial.id for p in read(grid).points()}
    (grid.parent / "b.txt").write_text("two one\n" * 20)
    after = read(grid)

    assert not isinstance(after, KnownGrid)
    assert before.isdisjoint(p.trial.id for p in after.points())


def test_another_value_another_lock_or_another_grid_is_read(grid):
    read(grid)
    assert not isinstance(read(grid, changed={"seeds": [5]}), KnownGrid)
    assert isinstance(read(grid, changed={"seeds": [5]}), KnownGrid)
    grid.write_text(GRID.replace("units: 8", "units: 4"))
    assert not isinstance(read(grid), KnownGrid)
    assert isinstance(read(grid), KnownGrid)
    lock = {"format": 1, "grid": "mine", "revisions": {"model gru_seq2seq": "2"}}
    (grid.parent / "grid.lock").write_text(json.dumps(lock))
    with pytest.raises(BenchError, match="the lock beside the grid"):
        read(grid)


def test_a_grid_with_errors_is_not_kept(grid):
    grid.write_text(GRID.replace("svd", "svdd"))
    for _ in range(2):
        with pytest.raises(BenchError, match="svdd"):
            read(grid)


def test_a_grid_with_a_model_of_the_hub_is_not_kept(grid):
    grid.write_text("models: [no/such]\nmethods: [svd]\nratios: [0.1]\ntasks: [piqa]\n")
    for _ in range(2):
        with tolerate_unseen():
            assert not isinstance(read(grid), KnownGrid)


def test_a_grid_of_many_points_is_not_kept(grid, monkeypatch):
    for most, kept in ((11, False), (12, True)):  # 3 methods, 2 ratios, 2 seeds
        monkeypatch.setattr(known_grid, "MOST", most)
        read(grid)
        assert isinstance(read(grid), KnownGrid) == kept


OPTIONS = {
    "text_perplexity": {"text": "a.txt"},
    "parallel_text": {"source": "a.txt", "target": "b.txt"},
    "phoenix2014t": {"folder": "."},
}


def by_content() -> list[tuple[str, str]]:
    return [
        (kind, name)
        for kind in ("model", "task")
        for name, plugin in discover(kind).items()
        if getattr(plugin.cls, "by_content", False)
    ]


@pytest.mark.parametrize(("kind", "name"), by_content())
def test_a_plugin_by_content_opens_no_file_by_itself(
    grid, monkeypatch, tmp_path, kind, name
):
    for split in ("train", "dev", "test"):
        for side in ("gloss", "de"):
            (tmp_path / f"phoenix2014T.{split}.{side}").touch()
    # Digests and texts are the only things that it may know; each counts.
    monkeypatch.setattr(
        identity, "digests", lambda paths: dict.fromkeys(paths, "0" * 64)
    )
    monkeypatch.setattr(texts, "read", lambda name: "text")

    def refuse(path, *args, **named):
        # The packages that are installed are part of every question.
        assert ".dist-info" in str(path), f"{name} opened {path}"
        return opened(path, *args, **named)

    opened = io.open
    with monkeypatch.context() as shut:
        for module in (builtins, io):
            shut.setattr(module, "open", refuse)
        for called in ("listdir", "scandir"):
            shut.setattr(os, called, refuse)
        chosen = choose(kind, {"name": name, **OPTIONS.get(name, {})}, {})

    assert chosen.part.revision


@pytest.mark.slow
def test_a_second_plan_prints_the_same_and_imports_no_torch(tmp_path: Path):
    words = ["plan", "quickstart", "--store", "none"]
    script = (
        "import sys\nfrom harness.cli import _status\n"
        f"assert _status({words}) == 0\nprint('torch' in sys.modules)"
    )
    told = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "SHRINKGRID_REMEMBER": "1"}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", script],
            env=told,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    )

    assert first.endswith("True\n")
    assert second.endswith("False\n")
    assert second.removesuffix("False\n") == first.removesuffix("True\n")

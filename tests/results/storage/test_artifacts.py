"""Artifacts: whole or absent, and never read damaged."""

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from results.storage import artifacts
from results.storage.folder import RemoteFolder
from results.storage.store import Store


def test_an_artifact_is_found_with_what_was_written(empty):
    assert artifacts.find(empty, "k") is None
    with artifacts.make(empty, "k", model="mlp") as folder:
        (folder / "model.bin").write_bytes(b"abc")
    found = artifacts.find(empty, "k")
    assert (found / "model.bin").read_bytes() == b"abc"
    assert artifacts.manifest(found)["model"] == "mlp"


def test_a_block_that_fails_leaves_no_artifact(empty):
    def fail():
        with artifacts.make(empty, "k") as folder:
            (folder / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert artifacts.find(empty, "k") is None
    assert list((empty.folder.local / "artifacts").iterdir()) == []


def test_the_first_of_two_equal_artifacts_wins(empty):
    with artifacts.make(empty, "k") as slow:
        (slow / "a").write_text("slow")
        with artifacts.make(empty, "k") as fast:
            (fast / "a").write_text("fast")
    assert (artifacts.find(empty, "k") / "a").read_text() == "fast"


@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "manifest"])
def test_a_damaged_artifact_is_moved_to_quarantine_to_be_made_again(empty, damage):
    with artifacts.make(empty, "k") as folder:
        (folder / "model.bin").write_bytes(b"abcdef")
    path = empty.folder.local / "artifacts" / "k"
    if damage == "flip":
        (path / "model.bin").write_bytes(b"abcdeF")
    if damage == "cut":
        (path / "model.bin").write_bytes(b"abc")
    if damage == "lose":
        (path / "model.bin").unlink()
    if damage == "manifest":
        (path / "manifest.json").write_text("{")

    assert artifacts.find(empty, "k") is None
    assert "artifact k is damaged" in empty.warnings[0]
    assert len(list((empty.folder.local / "damaged").iterdir())) == 1
    with artifacts.make(empty, "k") as folder:
        (folder / "model.bin").write_bytes(b"abcdef")
    assert artifacts.find(empty, "k") is not None


def test_an_artifact_in_a_bucket_is_fetched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
    (tmp_path / "bucket").mkdir()
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    store = Store(folder=RemoteFolder(bucket, "s", "s3://s"))
    with artifacts.make(store, "k") as folder:
        (folder / "model.bin").write_bytes(b"abc")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    found = artifacts.find(store, "k")

    assert (found / "model.bin").read_bytes() == b"abc"
    assert "another machine" in str(found)

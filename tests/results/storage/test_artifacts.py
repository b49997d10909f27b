"""Artifacts: whole or absent, and never read damaged."""

import json
import shutil

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


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    """A store in a bucket, with an artifact that one machine made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
    (tmp_path / "bucket").mkdir()
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    made = Store(folder=RemoteFolder(bucket, "s", "s3://s"))
    with artifacts.make(made, "k") as folder:
        (folder / "model.bin").write_bytes(b"abc")
        (folder / "parts" / "one").mkdir(parents=True)
        (folder / "parts" / "one" / "a").write_bytes(b"a")
    return made


def test_an_artifact_in_a_bucket_is_fetched_once(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    found = artifacts.find(store, "k")

    assert (found / "model.bin").read_bytes() == b"abc"
    assert (found / "parts" / "one" / "a").read_bytes() == b"a"
    assert "another machine" in str(found)
    shutil.rmtree(tmp_path / "bucket" / "s" / "artifacts" / "k" / "parts")
    assert artifacts.find(store, "k") == found
    assert [path.name for path in found.parent.iterdir()] == ["k"]


def test_an_artifact_that_is_still_uploaded_is_not_there(store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    store.folder.delete("artifacts/k/manifest.json")
    assert artifacts.find(store, "k") is None
    assert store.warnings == []


@pytest.mark.parametrize(
    "name", ["../evil", "parts/../../evil", "/tmp/evil", "", "a\0b", "."]
)
def test_a_manifest_that_names_other_places_is_damaged(
    store, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    manifest = json.dumps({"key": "k", "sha256": {"model.bin": "0", name: "0"}})
    store.folder.write("artifacts/k/manifest.json", manifest.encode())
    store.folder.write("artifacts/evil", b"x")

    assert artifacts.find(store, "k") is None
    assert "which lies elsewhere" in store.warnings[0]
    assert not list((tmp_path / "another machine").rglob("evil"))


@pytest.mark.parametrize("text", ["{}", "[]", '{"sha256": ["model.bin"]}'])
def test_a_manifest_without_digests_is_damaged(empty, text):
    with artifacts.make(empty, "k") as folder:
        (folder / "model.bin").write_bytes(b"abc")
    (artifacts.find(empty, "k") / "manifest.json").write_text(text)

    assert artifacts.find(empty, "k") is None
    assert "manifest.json lists no files" in empty.warnings[0]


def test_a_manifest_reads_the_same_whatever_the_order_of_files_on_the_disk(empty):
    names = ["b", "d", "a", "e", "c"]
    with artifacts.make(empty, "k", model="mlp") as folder:
        for name in names:
            (folder / name).write_text(name)
    found = artifacts.find(empty, "k")

    lines = (found / "manifest.json").read_text().splitlines()
    assert lines[:3] == ["{", ' "key": "k",', ' "model": "mlp",']
    assert list(artifacts.manifest(found)["sha256"]) == sorted(names)

"""Which files of a store count, where they are, and which columns they may have."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from synthetic import row

import results
from results.errors import StoreError
from results.storage import footers
from results.storage import store as store_module
from results.storage.folder import RemoteFolder
from results.storage.store import Store, accept_columns, folded_names, open_store


def test_a_compacted_file_stands_for_the_files_that_its_list_names(empty):
    for name in ("a.parquet", "b.parquet", "notes.txt", "compacted/new.parquet"):
        empty.folder.write(f"trials/{name}", b"")
    listed = json.dumps(["trials/a.parquet"]).encode()
    whole = ["trials/compacted/new.parquet", "trials/a.parquet", "trials/b.parquet"]
    assert empty.files("trials") == whole

    # A list without its file is of a compaction that did not commit.
    empty.folder.write("trials/compacted/other.json", listed)
    assert empty.files("trials") == whole
    empty.folder.write("trials/compacted/new.json", listed)
    assert empty.files("trials") == [whole[0], whole[2]]
    assert empty.files("samples") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, []),
        (b"", []),
        (b"{", []),
        (b'{"trials/a.parquet": 1}', []),
        (b'["trials/a.parquet", 3, null]', ["trials/a.parquet"]),
        (b'["trials/compacted/a.parquet"]', ["trials/compacted/a.parquet"]),
        # Nothing else is ever deleted.
        (b'["samples/a.parquet", "trials/../a.parquet", "trials/a.json"]', []),
        (b'["trials/b/a.parquet", "/trials/a.parquet", "trials/.parquet/"]', []),
    ],
)
def test_a_list_names_parquet_files_of_its_table_alone(text, names):
    assert folded_names("trials", text) == names


def test_files_of_a_hundred_trials_or_fewer_repeat_their_rows(empty):
    name = {"attempt": "0000-t0"}
    empty.append_all(
        [row(f"t{n}") for n in range(footers.MOST)],
        [name | {"metric": "m", "values": [1.0]}],
        [name | {"layer": "fc"}],
    )
    empty.append_all([row(f"u{n}") for n in range(footers.MOST + 1)])

    def repeats(path: str) -> bool:
        said = pq.read_metadata(empty.folder.local / path).metadata or {}
        return footers.KEY.encode() in said

    assert repeats("trials/0000-t0.parquet")
    assert not repeats("trials/0000-u0.parquet")
    assert not repeats("samples/0000-t0.parquet")
    assert not repeats("layers/0000-t0.parquet")


def test_a_store_in_a_bucket_has_a_cache_of_its_own_on_this_machine(
    tmp_path, monkeypatch
):
    def place(uri: str) -> Path:
        bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
        made = Store(folder=RemoteFolder(bucket, "s", uri))
        found = made.here("scratch/deep")
        assert found == made.here("scratch/deep")  # a second time
        assert found.is_dir()
        return found.relative_to(tmp_path)

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = place("s3://one"), place("s3://other")
    assert one != other
    assert re.fullmatch("cache/shrinkgrid/[0-9a-f]{16}/scratch/deep", str(one))
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert place("s3://one") == Path("home/.cache") / one.relative_to("cache")


def test_a_store_in_a_folder_has_its_own_files_there(empty):
    root = empty.folder.local
    assert empty.here("scratch/deep") == empty.here("scratch/deep")
    assert empty.scratch("x") == root / "scratch" / "x"
    assert (root / "scratch" / "deep").is_dir()


def test_the_store_of_the_package_is_read_only_and_gives_way_to_a_folder(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    packaged = open_store("measured")
    assert packaged.folder.local == Path(results.__file__).parent / "measured"
    with pytest.raises(StoreError, match="comes with the package and is read-only"):
        open_store("measured", create=True)

    (tmp_path / "measured").mkdir()
    own = open_store("measured", create=True)
    assert own.folder.local == tmp_path / "measured"
    assert open_store("measured").folder.local == tmp_path / "measured"


def said(store: Store) -> dict:
    """What a store says of itself."""
    return json.loads((store.folder.local / "format.json").read_text())


def test_a_store_accepts_the_columns_of_another_one_once(tmp_path, monkeypatch):
    new = open_store(tmp_path / "new", create=True)
    same = open_store(tmp_path / "same", create=True)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_columns_digest", lambda: "others")
        other = open_store(tmp_path / "other", create=True)
    before = said(new)
    (own,) = before["columns"]

    accept_columns(new, same)
    assert said(new) == before
    assert new.mixed  # readers join by name, which is never wrong
    for _ in range(2):
        accept_columns(new, other)
        assert said(new) == before | {"columns": [own, "others"]}
    assert open_store(tmp_path / "new").mixed


def test_columns_of_stores_of_older_code_are_not_known(tmp_path):
    new = open_store(tmp_path / "new", create=True)
    old = open_store(tmp_path / "old", create=True)
    for kept in ({}, {"columns": []}):
        text = json.dumps({"schema_version": 1} | kept)
        (tmp_path / "old" / "format.json").write_text(text)
        accept_columns(new, old)
        assert said(new)["columns"][1:] == [""]


def test_the_format_of_a_store_is_text_for_people(tmp_path):
    store = open_store(tmp_path / "s", create=True)
    lines = (store.folder.local / "format.json").read_text().splitlines()
    assert lines[:4] == [
        "{",
        ' "format": "shrinkgrid",',
        ' "schema_version": 1,',
        ' "columns": [',
    ]
    assert re.fullmatch(r'  "[0-9a-f]{12}"', lines[4])

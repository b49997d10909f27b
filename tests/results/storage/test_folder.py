"""Files of a store on a disk and in a bucket, and requests that are made again."""

import errno
import os
from types import SimpleNamespace

import pytest
from bucket import Bucket
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from results.errors import StoreError
from results.storage import folder as module
from results.storage.folder import (
    LocalFolder,
    RemoteFolder,
    explained,
    folder,
    patience,
    patiently,
)


@pytest.fixture(params=["disk", "bucket"])
def place(request, tmp_path):
    """An empty folder of either kind."""
    (tmp_path / "s").mkdir()
    if request.param == "disk":
        return LocalFolder(tmp_path / "s")
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    return RemoteFolder(bucket, "s/", "s3://s")


def test_a_file_is_written_read_moved_and_deleted(place, tmp_path):
    assert place.names("a") == []
    assert place.read("a/y") is None
    place.write("a/y", b"1")
    place.write("a/x", b"2")
    place.write("a/deep/z", b"3")
    place.write("new/deep/er", b"5")
    place.write("a/y", b"4")

    for name in "idgbfhcaej":
        place.write(f"many/{name}", b"")
    assert place.names("a") == ["x", "y"]  # no folder, and nothing beside
    assert place.names("many") == list("abcdefghij")
    assert sorted(p.name for p in (tmp_path / "s/a").iterdir()) == ["deep", "x", "y"]
    assert (place.read("a/y"), place.read("a/deep/z")) == (b"4", b"3")
    assert place.move("a/y", "b/c/new") is True
    assert place.move("a/y", "b/c/new") is False
    assert (place.read("a/y"), place.read("b/c/new")) == (None, b"4")
    place.delete("b/c/new")
    place.delete("b/c/new")
    assert place.names("b/c") == []
    assert place.read("new/deep/er") == b"5"


def test_a_system_that_writes_a_few_bytes_at_a_time_writes_all(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, data: write(to, bytes(data[:3])))
    place = LocalFolder(tmp_path)
    place.write("new/a", b"0123456789")
    assert place.read("new/a") == b"0123456789"


@pytest.fixture
def clock(monkeypatch):
    """Time passes only in pauses, which are listed; none is shortened by chance."""
    pauses, drawn = [], []

    def sleep(seconds):
        pauses.append(seconds)

    def uniform(low, high):
        drawn.append((low, high))
        return 1.0

    monkeypatch.setattr(module.time, "monotonic", lambda: 100 + sum(pauses))
    monkeypatch.setattr(module.time, "sleep", sleep)
    monkeypatch.setattr(module.random, "uniform", uniform)
    yield pauses
    assert set(drawn) <= {(0.5, 1.0)}


def fails(*errors: Exception):
    """A request that raises these one after the other, then the last for ever."""
    left = list(errors)

    def request():
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is None:
            return "answer"
        raise error

    return request


@pytest.mark.parametrize(
    ("seconds", "pauses"),
    [
        ("4", [0.5, 1, 2]),  # 3.5 s; the next pause would end at 7.5 s
        ("3.5", [0.5, 1, 2]),
        ("0.4", []),
        ("60", [0.5, 1, 2, 4, 8, 10, 10, 10, 10]),  # 55.5 s
    ],
)
def test_pauses_double_up_to_ten_seconds_until_patience_is_over(
    clock, monkeypatch, seconds, pauses
):
    monkeypatch.setenv("SHRINKGRID_PATIENCE", seconds)
    with pytest.raises(StoreError, match="the store s3://s cannot be used: away"):
        patiently(fails(OSError("away")), "s3://s")
    assert clock == pauses


def test_a_request_that_succeeds_later_has_an_answer(clock):
    assert patiently(fails(OSError("away"), OSError("away"), None), "s3://s") == (
        "answer"
    )
    assert clock == [0.5, 1]


def test_pauses_are_shortened_by_chance_so_that_workers_spread_out(clock, monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda low, high: low)
    assert patiently(fails(OSError("a"), OSError("a"), None), "s3://s") == "answer"
    assert clock == [0.25, 0.5]


def test_what_is_missing_or_forbidden_is_not_asked_for_again(clock):
    with pytest.raises(FileNotFoundError):
        patiently(fails(FileNotFoundError()), "s3://s")
    forbidden = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(StoreError, match="does not allow this: Permission denied"):
        patiently(fails(forbidden), "s3://s")
    assert clock == []


def test_patience_is_a_minute_or_what_the_environment_says(monkeypatch):
    monkeypatch.delenv("SHRINKGRID_PATIENCE", raising=False)
    assert patience() == 60
    monkeypatch.setenv("SHRINKGRID_PATIENCE", "2.5")
    assert patience() == 2.5


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "cannot grow"),
        (errno.EDQUOT, "cannot grow"),
        (errno.EFBIG, "cannot grow"),
        (errno.EACCES, "does not allow this"),
        (errno.EPERM, "does not allow this"),
        (errno.EROFS, "does not allow this"),
        (errno.ENOTDIR, "a store is a folder"),
        (errno.EIO, "cannot be used"),
    ],
)
def test_a_reason_of_the_system_says_what_to_do(number, says):
    assert says in str(explained(OSError(number, "why"), "/s"))


def test_every_error_of_a_disk_is_explained(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    under = LocalFolder(tmp_path / "file")
    for request in (
        lambda: under.names("a"),
        lambda: under.read("a"),
        lambda: under.write("a", b""),
        lambda: under.move("a", "b"),
        lambda: under.delete("a"),
    ):
        with pytest.raises(StoreError):
            request()


def test_a_move_that_a_bucket_refuses_is_an_error_and_not_a_missing_file(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SHRINKGRID_PATIENCE", "0")
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    place = RemoteFolder(bucket, "s", "s3://s")
    place.write("a", b"1")
    place.write("b/c", b"1")  # a folder of the target's name
    with pytest.raises(StoreError, match="s3://s"):
        place.move("a", "b")


def test_a_path_or_uri_names_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder("s").local == tmp_path / "s"
    assert folder(f"file://{tmp_path}/s").local == tmp_path / "s"
    assert folder("~/s").local == tmp_path.home() / "s"
    for uri, says in (
        ("s\0", "a character NUL"),
        ("s\udcff", "not UTF-8"),
        ("s3:/bucket", "one slash"),
        ("nope://bucket", "no file system for the store"),
    ):
        with pytest.raises(StoreError, match=says):
            folder(uri)


def test_a_server_that_wants_lengths_is_written_to(monkeypatch):
    # As Ceph 16: it answers 411 to an upload in chunks, which the SDK sends by default.
    monkeypatch.setenv("SHRINKGRID_PATIENCE", "0")
    monkeypatch.delenv("AWS_REQUEST_CHECKSUM_CALCULATION", raising=False)
    with Bucket(chunks=False) as bucket:
        place = folder(bucket.uri)
        place.write("a", b"1")
        assert place.read("a") == b"1"
        assert bucket.objects["here/a"] == b"1"


def test_a_file_can_be_read_by_others_as_far_as_the_user_allows(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0, 0o644)):
        before = os.umask(mask)
        try:
            LocalFolder(tmp_path).write("a", b"1")
            LocalFolder(tmp_path).write(f"in/{mask}/a", b"1")  # in a new folder
        finally:
            os.umask(before)
        for path in ("a", f"in/{mask}/a"):
            assert (tmp_path / path).stat().st_mode & 0o777 == mode


class Vague:
    """Moves nothing, and says no more than that, as S3 does."""

    def __init__(self, *, there: bool) -> None:
        self.there, self.moves = there, 0

    def create_dir(self, path, recursive) -> None:
        """Nothing."""

    def move(self, source, target) -> None:
        self.moves += 1
        raise OSError("copy failed")

    def get_file_info(self, path):
        return SimpleNamespace(is_file=self.there)


def test_a_bucket_that_cannot_move_is_asked_whether_the_file_is_there(clock):
    missing, there = Vague(there=False), Vague(there=True)
    assert RemoteFolder(missing, "s", "s3://s").move("a", "b") is False
    assert missing.moves == 1
    with pytest.raises(StoreError, match="copy failed"):
        RemoteFolder(there, "s", "s3://s").move("a", "b")
    assert there.moves == 10
    assert sum(clock) == 55.5


@pytest.mark.parametrize(
    ("uri", "endpoint", "set_to"),
    [
        ("mock://b/s", None, None),
        ("mock://b/s", "http://ceph", "when_required"),
        ("mock://b/s?endpoint_override=ceph", None, "when_required"),
    ],
)
def test_only_servers_other_than_amazon_s_get_no_checksums(
    monkeypatch, uri, endpoint, set_to
):
    name = "AWS_REQUEST_CHECKSUM_CALCULATION"
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
        folder(uri)
        assert os.environ.get(name) == set_to

import hashlib
import os
import subprocess
import sys

import pytest

from harness.core import BenchError
from harness.toolkit import identity


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, and a process that remembers nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "_known", {})
    return tmp_path / "cache" / "shrinkgrid" / "digests"


@pytest.fixture
def reads(monkeypatch):
    """The files that are read, in order."""
    found = []
    read = identity._read

    def counted(path):
        found.append(path.name)
        return read(path)

    monkeypatch.setattr(identity, "_read", counted)
    return found


def settled(path, content, seconds=1_000_000_000):
    """A file that was written long ago."""
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))
    return path


@pytest.fixture
def long_ago(monkeypatch):
    """The clock is an hour ahead, so that no file was written a moment ago."""
    now = identity.time.time
    monkeypatch.setattr(identity.time, "time", lambda: now() + 3600)


def test_a_file_and_a_text_of_equal_content_have_one_identity(tmp_path):
    path = tmp_path / "text"
    path.write_text("déjà vu", encoding="utf-8")
    digest = hashlib.sha256("déjà vu".encode()).hexdigest()
    assert (
        identity.of_file(path) == identity.of_text("déjà vu") == f"sha256:{digest[:16]}"
    )


def test_the_last_byte_of_a_large_file_counts(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(3 << 20))
    before = identity.of_file(path)
    path.write_bytes(bytes((3 << 20) - 1) + b"x")
    assert identity.of_file(path) != before


def test_several_files_are_identified_by_names_and_contents(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    base = identity.of_files({"a": a, "b": b})
    assert identity.of_files({"b": b, "a": a}) == base
    assert identity.of_files({"a": b, "b": a}) != base
    assert identity.of_files({"a": a, "c": b}) != base
    assert identity.of_files({"a": a}) != base


def test_a_file_is_read_once_and_again_when_it_changes(
    tmp_path, reads, long_ago, cache
):
    path = settled(tmp_path / "f", b"one")
    first = identity.of_file(path)
    assert identity.of_file(path) == first
    assert reads == ["f"]

    identity._known.clear()  # another process
    assert identity.of_file(path) == first
    assert reads == ["f"]
    assert list(cache.glob("*.json"))

    settled(path, b"two")  # equal size, equal time of modification
    assert identity.of_file(path) == identity.of_text("two")
    assert reads == ["f", "f"]


def test_another_file_in_the_same_place_is_read(tmp_path, reads, long_ago):
    path = settled(tmp_path / "f", b"one")
    identity.of_file(path)
    other = settled(tmp_path / "g", b"two")
    other.replace(path)
    assert identity.of_file(path) == identity.of_text("two")


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path, reads, cache):
    """A second write within one tick of the clock would leave equal times."""
    path = tmp_path / "f"
    path.write_text("one")
    identity.of_file(path)
    identity.of_file(path)
    assert reads == ["f", "f"]
    assert not cache.exists()


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"{", b'{"f": 3}', b'{"f": []}', b"\xff"]
)
def test_a_damaged_cache_is_ignored(tmp_path, reads, long_ago, cache, damage):
    path = settled(tmp_path / "f", b"one")
    identity.of_file(path)
    (kept,) = cache.glob("*.json")
    kept.write_bytes(damage)
    identity._known.clear()
    assert identity.of_file(path) == identity.of_text("one")
    assert reads == ["f", "f"]


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path, monkeypatch, long_ago
):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    path = settled(tmp_path / "f", b"one")
    assert identity.of_file(path) == identity.of_text("one")


def test_every_file_that_cannot_be_read_is_named(tmp_path):
    good = tmp_path / "good"
    good.write_text("")
    gone = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(BenchError) as caught:
        identity.digests([good, *gone])
    assert caught.value.errors == [
        f"{path} cannot be read: No such file or directory" for path in gone
    ]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_text("one")
    read = identity._read

    def slow(path):
        digest, _ = read(path)
        path.write_text("three")
        return digest, identity._stamp(path)

    monkeypatch.setattr(identity, "_read", slow)
    with pytest.raises(BenchError, match="changed while it was read"):
        identity.of_file(path)


def test_links_are_followed_as_in_the_hub_cache(tmp_path):
    blob = tmp_path / "blob"
    blob.write_text("one")
    (tmp_path / "link").symlink_to(blob)
    assert identity.of_file(tmp_path / "link") == identity.of_text("one")


def test_processes_share_the_cache(tmp_path, long_ago, reads):
    path = settled(tmp_path / "f", b"one")
    script = (
        "import sys, time; from pathlib import Path\n"
        "from harness.toolkit import identity\n"
        "identity.time.time = lambda now=time.time: now() + 3600\n"
        "print(identity.of_file(Path(sys.argv[1])))"
    )
    words = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == identity.of_file(path)
    assert reads == []

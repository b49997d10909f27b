"""A file that a user names is read within bounds, or refused."""

import os
from pathlib import Path

import pytest

from results.errors import StoreError
from results.tables.published import read
from results.tables.verify import verify
from results.text.bounded import read_bytes, read_text


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/", "/nowhere"])
def test_what_is_not_a_file_is_refused_unread(empty, path):
    with pytest.raises(StoreError, match=r"is not a file|cannot be read"):
        read_bytes(Path(path), 10)
    with pytest.raises(StoreError, match=r"is not a file|cannot be read"):
        verify(empty, Path(path))


def test_a_pipe_does_not_block_the_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(StoreError, match="is not a file"):
        read(str(tmp_path / "pipe.yaml"))


def test_a_file_has_a_largest_size(tmp_path):
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "file", 6) == "abc"
    with pytest.raises(StoreError, match="more than 5 bytes"):
        read_bytes(tmp_path / "file", 5)


def test_bytes_that_are_not_text_are_an_error(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="not UTF-8"):
        read_text(tmp_path / "file", 10)

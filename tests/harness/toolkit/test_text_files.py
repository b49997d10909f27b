"""Text files: encodings, byte order marks and line ends."""

import codecs

import pytest

from harness.core import BenchError
from harness.toolkit import text_files, texts
from tasks._translation.aligned import read_aligned

BOM = codecs.BOM_UTF8


@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_neither_marks_nor_line_ends_change_a_text(tmp_path, mark, end):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + b"gr\xc3\xbcn" + end + b"blau" + end)

    assert text_files.read(path) == "grün\nblau\n"
    assert text_files.lines(path) == ["grün", "blau"]
    assert texts.read(str(path)) == "grün\nblau\n"


def test_texts_that_differ_in_a_mark_only_have_one_fingerprint(tmp_path):
    plain, marked = tmp_path / "plain.txt", tmp_path / "marked.txt"
    plain.write_bytes(b"word")
    marked.write_bytes(BOM + b"word")

    assert texts.fingerprint(str(plain)) == texts.fingerprint(str(marked))


def test_a_mark_inside_a_text_is_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" + BOM + b"b")

    assert text_files.read(path) == "a\ufeffb"


def test_the_first_word_of_parallel_text_has_no_mark(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(BOM + b"one two\n")
    target.write_bytes(BOM + b"eins zwei\n")

    assert read_aligned(source, target) == ([["one", "two"]], [["eins", "zwei"]])


def test_the_first_wrong_byte_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(BOM + b"one\r\ntwo\nth\xffree")

    with pytest.raises(BenchError, match=r"a\.txt, line 3: byte 0xff at column 3 "):
        text_files.read(path)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf16_is_named(tmp_path, mark):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + b"w\x00")

    with pytest.raises(BenchError, match="is UTF-16"):
        text_files.read(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BenchError, match="No such file"):
        text_files.read(tmp_path / "none.txt")


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a").write_bytes(BOM)
    (tmp_path / "b").write_bytes(b"one\n\n")

    assert text_files.lines(tmp_path / "a") == []
    assert text_files.lines(tmp_path / "b") == ["one", ""]

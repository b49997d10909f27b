"""YAML that people write: what is read, and what is refused."""

import pytest

from results.text.yaml_reader import read


@pytest.mark.parametrize("text", ["1e-1", "1E-1", "1.e-1", ".1e0", "+1e-1", "0.1"])
def test_a_number_with_an_exponent_is_a_number(text):
    assert read(f"lr: {text}".encode()) == {"lr": 0.1}


@pytest.mark.parametrize("text", ["'1e-1'", '"1e-1"', "1e", "e1", "1e-1x"])
def test_what_is_quoted_or_has_letters_stays_a_text(text):
    assert read(f"lr: {text}".encode()) == {"lr": text.strip("'\"")}


def test_a_key_written_beside_a_merge_overrides_the_merged_one():
    text = b"first: &first {a: 1, b: 2}\nsecond: {<<: *first, b: 3}\nthird: *first\n"
    assert read(text) == {
        "first": {"a": 1, "b": 2},
        "second": {"a": 1, "b": 3},
        "third": {"a": 1, "b": 2},
    }


def test_the_first_of_several_merged_mappings_wins():
    text = b"x: &x {a: 1}\ny: &y {a: 2, b: 2}\nz: {<<: [*x, *y], c: 3}\n"
    assert read(text)["z"] == {"a": 1, "b": 2, "c": 3}


def test_a_merge_of_a_mapping_that_merges_itself_is_read():
    text = b"a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n"
    assert read(text)["c"] == {"x": 1, "y": 2, "z": 3}


@pytest.mark.parametrize(
    "text",
    [
        "{a: 1, a: 2}",
        "{b: {a: 1, a: 2}}",
        "{a: &x {b: 1, b: 2}, <<: *x}",
        "{<<: {a: 1}, <<: {b: 1}}",
    ],
)
def test_a_key_that_is_written_twice_is_refused(text):
    with pytest.raises(ValueError, match=r"line 1: the key .* stands twice"):
        read(text.encode())


@pytest.mark.parametrize("text", ["010", "1:30", "1:30:00", "1:30.5"])
def test_a_number_that_yaml_reads_to_another_base_is_refused(text):
    with pytest.raises(ValueError, match="base 8 or 60"):
        read(f"seed: {text}".encode())


@pytest.mark.parametrize("text", ["0", "-0", "0.5", "00.5", "0x10", "1_000"])
def test_other_numbers_are_read(text):
    assert isinstance(read(text.encode()), int | float)


def test_a_byte_order_mark_is_not_text():
    assert read(b"\xef\xbb\xbfmodels: [toy]") == {"models": ["toy"]}


@pytest.mark.parametrize("text", ["a: 1\nb: {<<: 3}", "a: &a {}\nb: {<<: [*a, 3]}"])
def test_a_merge_of_anything_but_mappings_is_refused_with_its_line(text):
    with pytest.raises(ValueError, match="line 2: `<<` merges mappings only"):
        read(text.encode())


def test_a_number_has_at_most_forty_characters():
    assert read(b"1" * 40) == int("1" * 40)
    with pytest.raises(ValueError, match="line 2: a number of 41 characters"):
        read(b"\n" + b"1" * 41)

"""YAML that people write: what is read, and what is refused."""

import re

import pytest

from results.text.yaml_reader import MAX_BYTES, read


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


def test_a_document_has_at_most_a_million_bytes():
    whole = b"a: 1\n" + b"#" * (MAX_BYTES - 5)
    assert read(whole) == {"a": 1}
    with pytest.raises(ValueError, match="it has 1000001 bytes; 1000000 are allowed"):
        read(whole + b"#")


def test_lists_are_nested_at_most_forty_deep():
    found = read(b"[" * 40 + b"]" * 40)
    for _ in range(39):
        (found,) = found
    assert found == []
    with pytest.raises(ValueError, match="more than 40 levels"):
        read(b"[" * 41 + b"]" * 41)


def test_aliases_count_as_what_they_stand_for():
    line = ",".join("x" * 999)
    allowed = f"a: &a [{line}]\nb: [{','.join(['*a'] * 98)}]"
    # 1 + 2 + 1000 + 1 + 98 x 1000 = 99,004 values, and 100,004 with one alias more.
    assert len(read(allowed.encode())["b"]) == 98
    with pytest.raises(ValueError, match="more than 100000 values"):
        read(f"a: &a [{line}]\nb: [{','.join(['*a'] * 99)}]".encode())
    full = allowed[:-1] + ",x" * 996  # exactly as many as are allowed
    assert len(read(f"{full}]".encode())["b"]) == 98 + 996
    with pytest.raises(ValueError, match="more than 100000 values"):
        read(f"{full},x]".encode())


def test_aliases_nest_as_deep_as_what_is_written():
    def nested(above: int) -> bytes:
        low = "[" * 20 + "]" * 20
        return f"a: &a {low}\nb: {'[' * above}*a{']' * above}\n".encode()

    found = read(nested(19))["b"]  # in the mapping: 40 levels
    for _ in range(38):
        (found,) = found
    assert found == []
    with pytest.raises(ValueError, match="more than 40 levels, or holds itself"):
        read(nested(20))


@pytest.mark.parametrize("text", ["a: &x [*x]", "a: &x {b: [*x]}"])
def test_a_value_that_holds_itself_is_refused(text):
    with pytest.raises(ValueError, match="or holds itself"):
        read(text.encode())


def test_keys_are_names():
    with pytest.raises(ValueError, match="line 2: a key must be a name"):
        read(b"a: 1\n[b]: 2\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: 1\n\tb: 2\n", "line 2, column 1: a tab in 'b: 2'; indent with spaces"),
        (b"a:\n  b: 1\n \tc: 2\n", "line 3, column 2: a tab in 'c: 2'"),
        (b"a: b:\tc\n", "line 1, column 5: mapping values are not allowed"),
        (
            b"a: b: c\n",
            "it is not YAML: line 1, column 5: mapping values are not allowed in this "
            "context in 'a: b: c'; put a value that has a colon in quotation marks",
        ),
        (b"a: [1\n", "line 2, column 1: did not find expected ',' or ']'; look"),
        (b"a: [1\nb: 2\n", "; look at the indent and the brackets of this line"),
        (b"a: 'x", "line 1"),
        (b"\xff", "it is not UTF-8 text"),
    ],
)
def test_what_is_wrong_is_shown_with_its_place_and_a_hint(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read(text)


def test_an_empty_document_is_none():
    assert read(b"") is None
    assert read(b"# nothing\n") is None

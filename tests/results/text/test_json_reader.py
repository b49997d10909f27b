"""JSON that is read back from a store, where anything may stand."""

import pytest

from results.text.json_reader import mapping, read


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, b"\xff"])
def test_what_is_not_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nested|Expecting|decode"):
        read(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        (None, {}),
        ("", {}),
        ("{}", {}),
        ("[1]", {"unreadable": "[1]"}),
        ("null", {"unreadable": "null"}),
        ("{", {"unreadable": "{"}),
    ],
)
def test_a_mapping_is_read_and_anything_else_is_shown(text, found):
    assert mapping(text) == found

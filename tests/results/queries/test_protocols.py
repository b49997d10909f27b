"""In which fields protocols differ, and what each of them says there."""

from synthetic import row

from results.queries.protocols import differing, named, stored, told_apart


def test_the_fields_of_the_named_protocols_are_read(empty):
    for name, text in (("p1", '{"x":1}'), ("p2", '{"x":2}'), ("p3", '{"x":3}')):
        empty.append(row(name, protocol=name, protocol_fields=text))

    assert stored(empty, ["p2", "p1", "p2", "gone"]) == {"p1": {"x": 1}, "p2": {"x": 2}}
    assert stored(empty, []) == {}


def test_differing_fields_are_sorted_by_name():
    names = "hgfedcba"
    first = dict.fromkeys(names, 1) | {"same": [1, 2], "text": "1"}
    second = dict.fromkeys(names, 2) | {"same": [1, 2], "text": "1"}

    assert differing([first, second]) == sorted(names)
    assert differing([first]) == []
    # Three of which two agree differ; a missing field differs from every value.
    assert differing([{"a": 1}, {"a": 1}, {"a": 2}]) == ["a"]
    assert differing([{"a": 1}, {}]) == ["a"]


def test_a_protocol_says_its_values_where_it_differs():
    protocols = {
        "p1": {"n": 1, "host": "a", "cut": {"b": 1, "a": 2}},
        "p2": {"n": 1, "cut": {"a": 2, "b": 3}},
    }
    assert told_apart(protocols) == {
        "p1": 'cut={"a": 2, "b": 1} host=a',
        "p2": 'cut={"a": 2, "b": 3} host=null',
    }
    assert named(["a", "b"]) == "a, b"
    assert named([]) == "fields that are not stored"

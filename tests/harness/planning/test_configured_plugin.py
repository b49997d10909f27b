"""One line of a grid as a plugin: what calibration may not read."""

import pytest

from harness.core import BenchError
from harness.planning.configured_plugin import choose, configure, overlaps
from harness.toolkit.calibration import CalibrationSpec


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("some words of mine")
    own = {"name": "text_perplexity", "text": str(path)}
    items = ["pydoc-512", "pydoc-cloze", "digits", own]
    return path, [choose("task", item) for item in items]


def test_calibration_on_the_text_of_a_task_is_refused_for_each_such_task(tasks):
    path, chosen = tasks

    whole = overlaps(CalibrationSpec(text="pydoc"), chosen)
    mine = overlaps(CalibrationSpec(text=str(path)), chosen)

    assert len(whole) == 2
    assert "task pydoc-512 evaluates 'pydoc-test'" in whole[0]
    assert "task pydoc-cloze evaluates 'pydoc-test'" in whole[1]
    assert len(mine) == 1
    assert "text_perplexity" in mine[0]
    assert "overlap: allow" in mine[0]


def test_calibration_on_another_text_or_with_leave_is_accepted(tasks):
    _, chosen = tasks

    assert overlaps(CalibrationSpec(), chosen) == []
    assert overlaps(CalibrationSpec(text="pydoc", overlap="allow"), chosen) == []
    assert overlaps(CalibrationSpec(text="wikitext2-test"), [None]) == []


@pytest.mark.parametrize(
    ("item", "form"),
    [
        ({"svd": {"a": 1, "b": True}}, "write {name: svd, a: 1, b: true}"),
        ({"svd": None}, "write svd, or {name: svd, OPTION: VALUE}"),
        ({"svd": {"a": [1]}}, "write a name, or {name: NAME, OPTION: VALUE}"),
        ({"svd": None, "a": 1}, "write a name, or {name: NAME, OPTION: VALUE}"),
        (["svd"], "write a name, or {name: NAME, OPTION: VALUE}"),
        ({"name": 3}, "write a name, or {name: NAME, OPTION: VALUE}"),
    ],
)
def test_a_wrong_item_gets_the_form_that_was_probably_meant(item, form):
    with pytest.raises(BenchError) as caught:
        configure("method", item)

    assert (
        str(caught.value)
        == f"method {item!r} is neither a name nor {{name: ...}}; {form}"
    )


def test_a_name_is_printable_and_not_longer_than_a_folder_may_be():
    with pytest.raises(BenchError, match="no method called"):
        configure("method", "x" * 200)
    for name in ("x" * 201, "a\x1b"):
        with pytest.raises(BenchError, match="is not a name"):
            configure("method", name)

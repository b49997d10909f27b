"""One line of a grid as a plugin: what calibration may not read."""

import pytest

from harness.planning.configured_plugin import choose, overlaps
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

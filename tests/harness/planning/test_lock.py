"""The lock beside a grid: written, read, and compared with this machine."""

import json
from pathlib import Path

import pytest

from harness import grids
from harness.core import BenchError
from harness.planning.lock import beside, check, key, read, write


def test_the_lock_lies_beside_the_grid_or_where_one_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = Path(grids.__file__).parent / "quick.yaml"
    assert beside(tmp_path / "a" / "mine.yaml") == tmp_path / "a" / "mine.lock"
    assert beside(packaged) == tmp_path / "quick.lock"


def test_a_key_has_the_options_that_the_name_does_not_say():
    assert key("task", "piqa", '{"id":"piqa"}') == "task piqa"
    assert key("task", "piqa", '{"limit":5,"id":"piqa"}') == 'task piqa {"limit":5}'
    assert key("text", "wiki") == "text wiki"


def test_what_is_written_is_read_back_and_leaves_nothing_beside(tmp_path):
    grid = tmp_path / "g.yaml"
    assert read(grid) == {}
    write(beside(grid), "g", {"task t": "2", "model m": "1"})
    assert read(grid) == {"model m": "1", "task t": "2"}
    # In version control: one line a revision, always in the same order.
    assert beside(grid).read_text().splitlines()[3:6] == [
        ' "revisions": {',
        '  "model m": "1",',
        '  "task t": "2"',
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["g.lock"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not a lock file of shrinkgrid"),
        ("[]", "is not a lock file of shrinkgrid"),
        ('{"format": 1}', "is not a lock file of shrinkgrid"),
        ('{"format": 1, "revisions": []}', "is not a lock file of shrinkgrid"),
        ('{"format": 2, "revisions": {}}', "has format 2"),
        ('{"revisions": {}}', "has format None"),
    ],
)
def test_a_lock_that_cannot_be_read_is_renewed(tmp_path, text, says):
    (tmp_path / "g.lock").write_text(text)
    with pytest.raises(BenchError, match=f"{says}.* `shrinkgrid prepare g`"):
        read(tmp_path / "g.yaml")


def test_a_revision_must_be_the_one_of_the_lock():
    locked = json.loads('{"model m": "1"}')
    check({}, "model m", "2")
    check(locked, "model m", "1")
    with pytest.raises(BenchError, match="m is 2 on this machine, and the lock says 1"):
        check(locked, "model m", "2")
    with pytest.raises(BenchError, match="does not know 'model n'"):
        check(locked, "model n", "1")

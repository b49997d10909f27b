"""The memory of plans: taken only where code, question and data are as they were."""

import json
import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from harness.planning import answers
from harness.toolkit import identity, texts


@pytest.fixture
def kept(monkeypatch, tmp_path: Path) -> Path:
    """A memory of its own, and a project of one file, which the fixture returns."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    project = tmp_path / "code.py"
    project.write_text("a = 1\n")
    monkeypatch.setattr(answers, "_files", lambda: iter([project]))
    monkeypatch.setattr(answers, "entry_points", lambda **_: ())
    monkeypatch.setattr(answers, "_given", {})
    monkeypatch.setattr(answers, "_recalled", {})
    return project


def ask(*question, content="answer", asked=None):
    """Ask, as a process does that computes what the memory does not have."""
    entry = answers.recall(*question)
    was_known = entry.content is not None
    if not was_known:
        entry.content, entry.asked = content, asked or {}
    answers.keep(entry)
    return was_known


def test_an_equal_question_is_answered_and_another_is_not(kept):
    assert not ask("list", "method", content=[{"method": "svd"}])
    assert answers.recall("list", "method").content == [{"method": "svd"}]
    assert answers.recall("list", "task").content is None


def test_an_edit_of_the_code_makes_every_answer_unknown(kept):
    ask("q")
    kept.write_text("a = 2\n")
    assert answers.recall("q").content is None
    kept.write_text("a = 1\n")  # the content counts, not the time of the file
    assert answers.recall("q").content == "answer"


@pytest.mark.parametrize("name", ["HF_HOME", "SHRINKGRID_PHOENIX2014T", "PYTHONPATH"])
def test_a_variable_that_says_where_data_is_makes_answers_unknown(
    kept, monkeypatch, name
):
    ask("q")
    monkeypatch.setenv(name, "/elsewhere")
    assert answers.recall("q").content is None


def test_a_package_that_is_installed_makes_answers_unknown(kept, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "site").mkdir()
    ask("q")
    (tmp_path / "site" / "torch-9.9.dist-info").mkdir()
    assert answers.recall("q").content is None


def test_another_folder_makes_answers_unknown_since_paths_are_relative(
    kept, monkeypatch, tmp_path
):
    ask("q")
    monkeypatch.chdir(tmp_path)
    assert answers.recall("q").content is None


@pytest.mark.parametrize("reads", ["file", "text"])
def test_answers_hold_as_long_as_the_data_is_the_same(kept, tmp_path, reads):
    data = tmp_path / "data.txt"
    data.write_text("one")
    with identity.recording() as asked:
        if reads == "file":
            identity.of_file(data)
        else:
            texts.fingerprint(str(data))
    assert [kind for kind, _ in asked] == [reads]
    ask("q", asked=asked)

    assert answers.recall("q").content == "answer"
    data.write_text("two")
    assert answers.recall("q").content is None
    data.unlink()
    assert answers.recall("q").content is None


def test_nothing_is_kept_that_depends_on_more_than_files_and_texts(kept):
    ask("q", asked={("elsewhere", "model gpt2"): ""})
    assert answers.recall("q").content is None


def test_nothing_is_kept_where_an_installed_package_adds_plugins(kept, monkeypatch):
    point = EntryPoint(name="theirs", value="theirs", group="shrinkgrid.methods")
    monkeypatch.setattr(
        answers, "entry_points", lambda group: [point] * (group == point.group)
    )
    ask("q")
    assert answers.recall("q").content is None


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"asked": [["x", "y", 1]]}'])
def test_a_damaged_file_is_asked_again(kept, damage):
    ask("q")
    (file,) = identity.cache_folder().glob("plans/*")
    file.write_bytes(damage)
    assert not ask("q", content="again")
    assert answers.recall("q").content == "again"


def test_the_answers_of_functions_are_kept_with_the_entry(kept, monkeypatch):
    calls = []

    def twice(number):
        calls.append(number)
        return 2 * number

    entry = answers.recall("q")
    entry.content = "plan"
    answers.keep(entry)
    assert answers.remembered(twice)(3) == 6
    answers.keep(entry)  # the process has learnt more since the entry was kept

    monkeypatch.setattr(answers, "_given", {})
    monkeypatch.setattr(answers, "_recalled", {})
    assert answers.recall("q").content == "plan"
    assert answers.remembered(twice)(3) == 6
    assert calls == [3]
    assert answers.remembered(twice)(4) == 8
    assert calls == [3, 4]


def test_old_files_are_removed(kept, monkeypatch):
    monkeypatch.setattr(answers, "_KEPT", 3)
    for number in range(6):
        ask("q", number)
        # As if the first question were the newest one.
        os.utime(answers.recall("q", number).path, (1e9 - number, 1e9 - number))
    ask("q", 6)

    known = [answers.recall("q", number).content for number in range(7)]
    assert known == ["answer"] * 2 + [None] * 4 + ["answer"]


def test_an_entry_that_says_nothing_new_is_not_written(kept):
    entry = answers.recall("q")
    answers.keep(entry)  # has no content
    assert not entry.path.exists()
    entry.content = "answer"
    answers.keep(entry)
    entry.path.write_bytes(b"of another process")
    answers.keep(entry)
    assert entry.path.read_bytes() == b"of another process"
    entry.path.unlink()

    ask("q")
    entry = answers.recall("q")
    entry.path.write_bytes(b"of another process")
    answers.keep(entry)
    assert entry.path.read_bytes() == b"of another process"


def test_the_memory_is_off_with_own_plugins_or_torch_or_by_request(monkeypatch):
    monkeypatch.delenv("SHRINKGRID_REMEMBER")
    monkeypatch.delenv("SHRINKGRID_PLUGINS", raising=False)
    monkeypatch.setattr(answers.sys, "modules", {})
    assert answers.usable()
    monkeypatch.setattr(answers.sys, "modules", {"torch": None})
    assert not answers.usable()
    monkeypatch.setattr(answers.sys, "modules", {})
    monkeypatch.setenv("SHRINKGRID_PLUGINS", "mine.py")
    assert not answers.usable()
    monkeypatch.delenv("SHRINKGRID_PLUGINS")
    monkeypatch.setenv("SHRINKGRID_REMEMBER", "0")
    assert not answers.usable()


def test_the_code_is_every_file_of_the_project():
    names = {path.as_posix() for path in answers._files()}
    for end in ("methods/svd.py", "harness/models/families.json", "results/schema.py"):
        assert any(name.endswith(end) for name in names), end
    assert not any("__pycache__" in name for name in names)


def test_the_order_of_a_folder_on_the_disk_makes_no_answer_unknown(
    monkeypatch, tmp_path
):
    files = list(answers._files())
    parents = list(dict.fromkeys(path.parent for path in files))
    wanted = [
        path
        for package in answers.OURS
        for folder in sorted(p for p in parents if package in p.parts)
        for path in sorted(p for p in files if p.parent == folder)
    ]
    assert files == wanted
    names = [f"{letter}.dist-info" for letter in "gcafbed"]
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(answers.sys, "path", [str(tmp_path), str(tmp_path / "none")])
    found = [Path(line.split()[0]).name for line in answers._installed()]
    assert found == sorted(names)


def test_a_file_of_the_memory_is_plain_json(kept):
    ask("q", content={"points": [1]})
    (file,) = identity.cache_folder().glob("plans/*")
    found = json.loads(file.read_bytes())
    assert found == {"asked": [], "answers": {}, "content": {"points": [1]}}


def test_the_order_in_which_variables_were_set_makes_no_answer_unknown(
    kept, monkeypatch
):
    names = ["HF_HOME", "SHRINKGRID_PHOENIX2014T"]
    for name in names:
        monkeypatch.setenv(name, "/data")
    ask("q")
    for name in names:  # the other way round
        monkeypatch.delenv(name)
    for name in reversed(names):
        monkeypatch.setenv(name, "/data")

    assert answers.recall("q").content == "answer"

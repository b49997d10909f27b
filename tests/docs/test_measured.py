"""The packaged store, and the tables of the documentation that show it."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from harness.cli import _status
from results.boards import leaderboard
from results.errors import StoreError
from results.queries.db import ask
from results.storage.store import open_store
from results.text.formats import DASH

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import measured  # noqa: E402

PAGES = [
    page
    for page in sorted(measured.PAGES.rglob("*.md"))
    if measured.MARKED.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_those_of_the_packaged_store(page):
    text = page.read_text(encoding="utf-8")

    assert measured.filled(text) == text, "run python docs/measured.py tables"


def test_the_readme_quotes_the_packaged_store():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(
        r"^\| `?(\w+)`? \| (\S+ ± \S+) \| (\S+ ± \S+) \| (.+?) \|$", text, re.M
    )
    query = """
        SELECT method, task, mean, stderr FROM leaderboard WHERE main
        AND ratio IN (0, 0.2, 0.875) AND method_options IN ('{}', '[]')
        AND model LIKE 'smol%'
        AND (task, task_options::JSON->>'limit') IN
            (('wikitext2-1024', '8'), ('ptb-2048', '4'), ('arc_easy', '100'))
    """
    found = {
        (method, task): f"{mean:.{digits}f} ± {stderr:.{digits}f}"
        for method, task, mean, stderr in ask(open_store("measured"), query).rows
        for digits in [2 if task == "arc_easy" else 1]
    }
    assert len(quoted) > 4
    for method, *cells in quoted:
        tasks = ("wikitext2-1024", "ptb-2048", "arc_easy")
        for task, cell in zip(tasks, cells, strict=True):
            assert found.get((method, task), DASH) == cell, (method, task)


def test_some_page_shows_the_packaged_store():
    assert PAGES


def test_the_packaged_store_opens_by_its_name_from_anywhere(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)

    assert _status(["leaderboard", "--store", "measured", "--format", "csv"]) == 0
    assert "dense" in capsys.readouterr().out
    # Nothing was made here.
    assert not list(tmp_path.iterdir())


def test_the_packaged_store_names_no_machine_and_has_no_failed_trial():
    store = open_store("measured")

    named = ask(store, "SELECT count(host), count(node) FROM trials").rows
    assert named == [(0, 0)]
    assert ask(store, "SELECT DISTINCT status FROM newest").rows == [("ok",)]


def test_nothing_runs_into_the_packaged_store(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _status(["init", "mine.yaml"])
    capsys.readouterr()

    assert _status(["run", "mine.yaml", "--store", "measured"]) == 2
    assert "comes with the package and is read-only" in capsys.readouterr().err


def test_a_folder_of_that_name_goes_before_the_packaged_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "measured").mkdir()

    with pytest.raises(StoreError, match="no store at"):
        open_store("measured")
    made = open_store("measured", create=True)
    assert made.folder.local == tmp_path / "measured"


def test_stores_are_joined_and_written_again_alike(tmp_path, monkeypatch):
    before = leaderboard.read(open_store("measured")).rows
    copy = tmp_path / "copy"
    shutil.copytree(measured.PACKAGED, copy)
    monkeypatch.setattr(measured, "PACKAGED", tmp_path / "made")

    measured.build([str(copy)])

    assert leaderboard.read(open_store(tmp_path / "made")).rows == before


def test_a_table_names_methods_ratios_and_errors():
    first = PAGES[0].read_text(encoding="utf-8")
    asked = measured.MARKED.search(first)["asked"]
    head, rule, dense, *rest = measured.table(asked).splitlines()

    assert head.startswith("| ratio | method | ")
    assert set(rule) <= set("|-: ")
    assert re.match(
        r"\| 0 \| dense \| [\d.]+( ± [\d.]+)? \| \S+ \| [\d,]+ \| [\d,]+ \| \d \|",
        dense,
    )
    assert rest

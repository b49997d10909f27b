"""The table of benchmarks: what is written is read again, regressions are found."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
PAGE = Path(__file__).parents[2] / "docs/explanation/benchmarks.md"
EMPTY = "text\n<!-- figures -->\n<!-- end of figures -->\nmore\n"


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import _table

    return _table


@pytest.fixture
def row(table):
    """A row of the benchmark ``engine``, at least 0.7 unless a test says else."""

    def makes(value, name="rate", *, unit="x", side="least", bar=0.7, of="engine"):
        figure = table.Figure(name=name, value=value, unit=unit, side=side, bar=bar)
        return table.Row(benchmark=of, figure=figure, date="2026-01-01", machine="mine")

    return makes


def test_a_page_gives_back_the_rows_that_were_written(table, row):
    written = [row(0.5), row(12.5, "memory", unit="MB", side="most", bar=50)]
    page = table.replaced(EMPTY, "engine", written)

    assert table.rows(page) == written
    assert page.startswith("text\n")
    assert page.endswith("more\n")
    assert "| 0.5 x | ≥ 0.7 | **open** |" in page
    assert "| 12.5 MB | ≤ 50 | reached |" in page


def test_a_benchmark_replaces_its_own_rows_only(table, row):
    page = table.replaced(EMPTY, "engine", [row(0.5), row(0.6, "other")])
    page = table.replaced(page, "boards", [row(3, of="boards")])
    page = table.replaced(page, "engine", [row(0.9)])

    assert table.rows(page) == [row(3, of="boards"), row(0.9)]


# A rate of 0.5 instead of 0.6 takes 0.6 / 0.5 = 1.2 times as long: 20 % worse.
@pytest.mark.parametrize(
    ("before", "after", "side", "fails"),
    [
        (0.6, 0.5, "least", False),
        (0.6, 0.49, "least", True),
        (0.6, 0.9, "least", False),
        (1.0, 1.2, "most", False),
        (1.0, 1.21, "most", True),
        (1.0, 0.1, "most", False),
    ],
)
def test_a_ratio_may_get_worse_by_a_fifth(table, row, before, after, side, fails):
    base, now = ([row(value, side=side)] for value in (before, after))
    assert bool(table.regressions(base, now)) is fails


def test_seconds_of_two_machines_are_not_compared(table, row):
    base, now = ([row(v, unit="s", side="most")] for v in (1.0, 9.0))
    assert table.regressions(base, now) == []


def test_a_ratio_that_is_not_measured_any_more_is_named(table, row):
    (told,) = table.regressions([row(0.6)], [row(0.6, "other")])
    assert told == "engine: rate: 0.6 before, and no row today"


def test_the_page_compares_equal_with_itself():
    line = [sys.executable, SCRIPTS / "_table.py", "compare", PAGE]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 worse" in done.stdout


def test_a_run_writes_what_a_script_prints(table, monkeypatch, tmp_path, capfd):
    (tmp_path / "benchmarks").mkdir()
    script = tmp_path / "benchmarks/quick.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\nfrom _figures import show\n"
        "print('a title')\nshow('share, half', 0.123456, 'x', side='most', bar=1.5)\n"
    )
    monkeypatch.setattr(table, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(EMPTY)

    table.run("quick", page)

    (found,) = table.rows(page.read_text())
    assert (found.benchmark, found.figure.name) == ("quick", "share, half")
    assert (found.figure.value, found.figure.bar) == (0.123, 1.5)
    assert "threads, load" in found.machine
    assert "a title" in capfd.readouterr().out
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(SystemExit, match="its rows are as before"):
        table.run("quick", page)
    assert table.rows(page.read_text()) == [found]

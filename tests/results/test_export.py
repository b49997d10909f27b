"""Copies of a store that other programs open."""

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from synthetic import row

from results.errors import StoreError
from results.export import export, form_of
from results.queries.db import ask

FORMULAS = ["=1+1", "+a", "-a", "@a", " =1", "\uff1d1", "=a\n=b"]
TEXTS = ["-1.5", "+1e3", "a=1", "a\nb", "", "naïve"]


@pytest.mark.parametrize(("form", "mark"), [("csv", "'"), ("csv-raw", "")])
def test_a_csv_copy_has_no_formula_unless_it_is_raw(
    empty, tmp_path: Path, form: str, mark: str
):
    for i, text in enumerate([*FORMULAS, *TEXTS]):
        empty.append(row(f"t{i:02d}", reason=text + "\x1b" if text else None))
    export(empty, tmp_path / "copy", form)

    with (tmp_path / "copy" / "trials.csv").open(newline="", encoding="utf-8") as file:
        found = {one["trial"]: one["reason"] for one in csv.DictReader(file)}

    escape = "" if form == "csv" else "\x1b"
    wanted = [mark + text + escape for text in FORMULAS]
    wanted += [text + escape if text else "" for text in TEXTS]
    if form == "csv":  # -1.5 with an ESC behind it is not a number
        wanted[len(FORMULAS)] = "'-1.5"
        wanted[len(FORMULAS) + 1] = "'+1e3"
    assert [found[key] for key in sorted(found)] == wanted


def test_numbers_in_text_columns_of_a_csv_copy_stay_numbers(empty, tmp_path):
    empty.append(row("t", reason="-1.5"))
    export(empty, tmp_path / "copy", "csv")
    with (tmp_path / "copy" / "trials.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["reason"] == "-1.5"


def test_a_database_opens_with_all_views(stored, tmp_path):
    export(stored, tmp_path / "copy.duckdb", "duckdb")
    with duckdb.connect(str(tmp_path / "copy.duckdb"), read_only=True) as database:
        assert database.execute("SELECT count(*) FROM trials").fetchone() == (28,)
        assert database.execute("SELECT count(*) > 0 FROM leaderboard").fetchone()
        assert database.execute(
            "SELECT count(*) > 2000 FROM comparison"
        ).fetchone() == (True,)


def test_a_sqlite_database_has_the_rows_of_every_view(stored, tmp_path):
    export(stored, tmp_path / "copy.sqlite", "sqlite")

    with closing(sqlite3.connect(tmp_path / "copy.sqlite")) as copy:
        tables = {t for (t,) in copy.execute("SELECT name FROM sqlite_master")}
        for view in ("trials", "newest", "measurements", "leaderboard", "samples"):
            order = "ORDER BY ALL" if view != "samples" else "ORDER BY attempt"
            wanted = ask(stored, f"SELECT * FROM {view} {order}")
            found = copy.execute(f"SELECT * FROM {view}").fetchall()
            assert sorted(map(plain, found)) == sorted(map(plain, wanted.rows))
        assert {"comparison", "pareto"} <= tables
        # SQLite's own functions read the times and the lists.
        moment = copy.execute("SELECT min(datetime(started_at)) FROM trials")
        assert moment.fetchone() == ("2026-01-01 12:00:00",)
        length = copy.execute('SELECT max(json_array_length("values")) FROM samples')
        assert length.fetchone() == (100,)


def plain(row) -> tuple[str, ...]:
    """A row as texts, with what SQLite has another type for written in one way."""

    def text(value):
        if isinstance(value, list):
            return json.dumps(value, separators=(",", ":"))
        if isinstance(value, float):  # sums depend on the order of the threads
            return f"{value:.12g}"
        return str(int(value) if isinstance(value, bool) else value)

    return tuple(map(text, row))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.duckdb", "duckdb"),
        ("a.db", "duckdb"),
        ("a.SQLITE", "sqlite"),
        ("a.sqlite3", "sqlite"),
        ("a.csv", "csv"),
        ("a.parquet", "parquet"),
        ("folder", "parquet"),
    ],
)
def test_the_suffix_says_the_form(name, form):
    assert form_of(Path(name)) == form


def test_excel_and_unknown_suffixes_are_refused_with_what_to_write():
    with pytest.raises(StoreError, match=r"no format for '\.xlsx'.*Excel opens CSV"):
        form_of(Path("a.xlsx"))
    with pytest.raises(StoreError, match=r"'\.json'; name a database .* or \.csv$"):
        form_of(Path("a.json"))


def test_an_existing_file_is_not_replaced(stored, tmp_path):
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(StoreError, match="exists; name a new one"):
        export(stored, tmp_path / "copy", "csv")
    assert (tmp_path / "copy").read_text() == "mine"

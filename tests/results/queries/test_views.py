"""The statements of results/sql, and which of them a query needs."""

import duckdb

from results.queries import views
from results.schema import TABLES


def test_duckdb_finds_the_same_statements():
    text = ";".join(view.sql for view in views.every())
    kinds = [one.type.name for one in duckdb.extract_statements(text)]
    assert kinds == ["CREATE"] * len(views.every())


def test_a_view_is_needed_with_those_that_it_reads_and_after_them():
    names = [view.name for view in views.needed("FROM recovery")]
    assert names[-1] == "main.recovery"
    assert {"main.leaderboard", "main.plans", "main.canonical"} < set(names)
    assert "main.cost" not in names
    assert names.index("main.canonical") < names.index("main.leaderboard")


def test_a_query_of_stored_rows_needs_their_table():
    assert views.tables_of("FROM stored.layers, STORED.Plans") == {"layers", "plans"}
    (trials,) = views.needed("FROM trials")
    assert trials.tables == {"trials"}


def test_every_table_has_a_view():
    read = frozenset().union(*(view.tables for view in views.every()))
    assert set(TABLES) <= read


def test_rows_are_read_once_only_if_asked():
    (newest,) = (view for view in views.every() if view.name == "stored.newest")
    assert " AS MATERIALIZED" in newest.statement(read_once=True)
    assert " AS NOT MATERIALIZED" in newest.statement(read_once=False)

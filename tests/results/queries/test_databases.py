"""Databases are used for one reading after another, and for one at a time."""

import os
import signal
import threading

import duckdb
import pytest
from synthetic import row

from results.queries import databases
from results.queries.db import ask
from results.queries.reading import reading
from results.queries.restricted import select
from results.storage.store import open_store

COUNT = "SELECT count(*) FROM trials"


@pytest.fixture(autouse=True)
def none_idle():
    """No test sees the databases of another."""
    databases._close_idle()
    yield
    databases._close_idle()


@pytest.fixture
def stores(tmp_path):
    """Stores of one, two, ... five rows."""
    made = [open_store(tmp_path / f"{n}", create=True) for n in range(1, 6)]
    for n, store in enumerate(made, 1):
        for i in range(n):
            store.append(row(f"t{i}"))
    return made


def _connection(store):
    def read(snapshot):
        ask(snapshot, COUNT)
        (database,) = snapshot.connections.values()
        return database.connection

    return reading(store, read)


def test_one_database_answers_one_reading_after_another(stores):
    used = {id(_connection(store)) for store in stores}
    assert len(used) == len(databases._idle) == 1


def test_each_reading_sees_its_own_store_as_it_is(stores):
    assert [ask(s, COUNT).rows for s in stores] == [[(n,)] for n in range(1, 6)]
    stores[0].append(row("new"))
    assert ask(stores[0], COUNT).rows == [(2,)]
    (only,) = databases._idle
    with pytest.raises(duckdb.CatalogException, match="does not exist"):
        only.connection.execute(COUNT)  # nothing of the last store is left


@pytest.mark.parametrize("many", [0, 50])
def test_rows_in_memory_are_those_of_the_reading(stores, monkeypatch, many):
    monkeypatch.setattr(databases, "_MANY_FILES", many)
    for table in ("trials", "leaderboard"):
        counts = [ask(s, f"SELECT count(*) FROM {table}").rows[0][0] for s in stores]
        assert counts == ([1, 2, 3, 4, 5] if table == "trials" else [1] * 5)


def test_a_view_follows_the_number_of_files(stores, monkeypatch):
    """Whether its rows are read once into memory is part of the view."""
    made = "SELECT sql FROM duckdb_views() WHERE view_name = 'leaderboard'"
    found = []
    for many in (0, 50, 0):
        monkeypatch.setattr(databases, "_MANY_FILES", many)
        # Rows that lie in the footers are in memory anyway.
        monkeypatch.setattr(
            databases.footers, "embedded_rows", lambda _, all_: ([], all_)
        )
        ask(stores[1], "FROM leaderboard")
        found += databases._idle[0].connection.execute(made).fetchone()
    assert ["NOT MATERIALIZED" in sql.upper() for sql in found] == [False, True, False]


def test_readings_at_one_time_have_databases_of_their_own(stores):
    def outer(snapshot):
        first = ask(snapshot, COUNT).rows
        inner = ask(stores[4], COUNT).rows
        return first, inner, ask(snapshot, COUNT).rows

    assert reading(stores[0], outer) == ([(1,)], [(5,)], [(1,)])
    assert len(databases._idle) == 2


def test_threads_that_read_at_one_time_get_their_own_answers(stores):
    together, answers = threading.Barrier(len(stores)), {}

    def read(snapshot):
        found = []
        for _ in range(3):
            together.wait(timeout=60)
            found += ask(snapshot, COUNT).rows
        return found

    def work(number, store):
        answers[number] = reading(store, read)

    threads = [threading.Thread(target=work, args=one) for one in enumerate(stores, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {n: [(n,)] * 3 for n in range(1, 6)}
    assert len(databases._idle) == databases._MOST_IDLE < len(stores)


def test_after_an_error_a_database_is_not_used_again(stores):
    def fails(snapshot):
        ask(snapshot, COUNT)
        opened.extend(snapshot.connections.values())
        return ask(snapshot, "FROM no_such_view")

    opened = []
    with pytest.raises(duckdb.CatalogException):
        reading(stores[0], fails)
    assert databases._idle == []
    with pytest.raises(duckdb.ConnectionException):
        opened[0].connection.execute("SELECT 1")


def test_a_query_outside_a_reading_is_tidied_up_too(stores):
    seen = stores[2].at_this_moment()
    assert ask(seen, COUNT).rows == [(3,)]
    assert len(databases._idle) == 1
    with pytest.raises(duckdb.CatalogException):
        ask(seen, "FROM no_such_view")
    assert databases._idle == []


def test_a_person_s_query_gets_a_database_that_nobody_uses_again(stores):
    """It locks the settings of its database, and they stay locked."""
    ask(stores[0], COUNT)
    (idle,) = databases._idle
    assert select(stores[1], COUNT).rows == [(2,)]
    assert databases._idle == [idle]
    locked = "SELECT current_setting('lock_configuration')"
    assert idle.connection.execute(locked).fetchone() == (False,)


def test_a_forked_process_starts_databases_of_its_own(stores):
    """Threads of a database do not come along: its close would wait for ever."""
    ask(stores[0], COUNT)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        right = databases._idle == [] and ask(stores[1], COUNT).rows == [(2,)]
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(stores[0], COUNT).rows == [(1,)]


def test_a_database_of_another_process_is_left_alone(stores):
    ask(stores[0], COUNT)
    (idle,) = databases._idle
    idle.process -= 1  # as if it came along with a fork
    assert ask(stores[0], COUNT).rows == [(1,)]
    assert idle not in databases._idle
    assert idle.connection.execute("SELECT 1").fetchone() == (1,)  # not closed
    databases._of_others.remove(idle)
    idle.close()

"""A person's SQL reads the store, and does nothing else."""

import pytest
from synthetic import row

from results.errors import StoreError
from results.queries.db import connect
from results.queries.restricted import _reads_comparison, checked, query, select
from results.storage.store import open_store


def test_show_tables_lists_views_and_nothing_else(empty):
    listed = {name for (name,) in select(empty, "SHOW TABLES").rows}
    assert listed >= {"trials", "leaderboard", "samples"}
    assert listed >= {"published", "comparison"}
    assert not any(name.startswith(("stored", "empty")) for name in listed)


def _refused(store_path):
    inside = f"{store_path}/format.json"
    return [
        "COPY trials TO 'stolen.csv'",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'",
        "ATTACH 'other.db'",
        "DETACH memory",
        "INSTALL httpfs",
        "LOAD httpfs",
        "UPDATE EXTENSIONS",
        "PRAGMA database_list",
        "SET threads = 1",
        "SET VARIABLE a = 1",
        "RESET threads",
        "USE memory",
        "CALL pragma_version()",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "EXPLAIN ANALYZE COPY trials TO 'stolen.csv'",
        "EXPORT DATABASE 'stolen'",
        "IMPORT DATABASE 'stolen'",
        "CREATE TABLE t (i INT)",
        "DROP VIEW trials",
        "INSERT INTO empty.plans (plan) VALUES ('a')",
        "UPDATE empty.plans SET plan = 'a'",
        "DELETE FROM empty.plans",
        "COMMENT ON VIEW trials IS 'x'",
        "SELECT 1; DROP VIEW trials",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
        "WITH w AS (INSERT INTO empty.plans (plan) VALUES ('a') RETURNING *) FROM w",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_csv_auto('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_json('/etc/passwd')",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM sniff_csv('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "FROM '/etc/passwd'",
        "FROM '/etc/hosts.csv'",
        "FROM query('COPY trials TO ''stolen.csv''')",
        "FROM query('FROM read_text(''/etc/passwd'')')",
        "FROM query_table('/etc/hosts.csv')",
        "WITH w AS (FROM read_text('/etc/passwd')) SELECT * FROM w",
        "SELECT (SELECT content FROM read_text('/etc/passwd'))",
        "SELECT 1 WHERE EXISTS (FROM read_text('/etc/passwd'))",
        f"FROM read_text('{inside}')",
        f"FROM read_text('{store_path}/../../../../../etc/passwd')",
        "SELECT * FROM read_csv('https://example.org/a.csv')",
        "FROM 's3://bucket/a.parquet'",
        "SELECT getenv('HOME')",
        "FROM duckdb_secrets()",
        "FROM stolen",
        "SLCT 1",
    ]


REFUSED = _refused("{store}")


@pytest.fixture(scope="module")
def one_row(tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("one") / "store", create=True)
    store.append(row("t"))
    return store


@pytest.mark.parametrize("attack", REFUSED)
def test_a_query_can_only_read_the_store(one_row, tmp_path, monkeypatch, attack):
    stolen = "a Python variable that DuckDB must not see"
    assert stolen
    monkeypatch.chdir(tmp_path)
    before = sorted(one_row.folder.local.rglob("*"))

    with pytest.raises(StoreError) as refused:
        select(one_row, attack.replace("{store}", one_row.uri))

    assert len(str(refused.value)) > 20
    assert list(tmp_path.iterdir()) == []
    assert sorted(one_row.folder.local.rglob("*")) == before


def test_after_all_refusals_the_store_is_as_it_was(one_row):
    for attack in REFUSED[:5]:
        with pytest.raises(StoreError):
            select(one_row, attack)
    assert select(one_row, "SELECT trial FROM trials").rows == [("t",)]
    assert select(one_row, "SELECT count(*) FROM plans").rows == [(0,)]


@pytest.mark.parametrize(
    ("harmless", "rows"),
    [
        ("SELECT 1;", [(1,)]),
        ("-- why\nSELECT trial FROM trials", [("t",)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("WITH w AS (SELECT count(*) AS n FROM trials) SELECT n FROM w", [(1,)]),
        ("SELECT 'COPY x TO y; DROP z'", [("COPY x TO y; DROP z",)]),
    ],
)
def test_a_select_is_answered(empty, harmless, rows):
    empty.append(row("t"))
    assert select(empty, harmless).rows == rows


def test_describe_and_summarize_are_answered(empty):
    assert select(empty, "DESCRIBE leaderboard").rows[0][0] == "task"
    assert select(empty, "SUMMARIZE trials").rows


def test_text_that_is_not_utf_8_is_one_message(empty):
    with pytest.raises(StoreError, match=r"not UTF-8 text.*xe9.*character 11"):
        query(empty, b"SELECT 'caf\xe9'".decode(errors="surrogateescape"))
    with pytest.raises(StoreError, match="character NUL"):
        checked("SELECT 1\0")


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("FROM comparison", True),
        ("SELECT count(*) FROM comparison WHERE false", True),
        ("SELECT 'comparison' FROM trials", False),
        ("FROM leaderboard", False),
        ("SELECT nope", True),  # DuckDB cannot explain it
    ],
)
def test_the_plan_of_a_query_says_whether_it_reads_the_comparison(empty, sql, reads):
    with connect(empty) as connection:
        assert _reads_comparison(connection, sql) is reads

"""A person's SQL over the store and the published tables."""

import pytest
from synthetic import row

from results.ask import query
from results.queries.restricted import select
from results.tables import comparison


def test_comparison_has_every_published_number_with_a_verdict(empty):
    # The dense error of LeNet-300-100 is printed as 1.64 % (variational_dropout).
    made = row("d", method="dense", ratio=0.0, model="lenet-300-100", task="mnist")
    made["measurements"][0]["value"] = 1 - 0.01642
    empty.append(made)
    found = query(
        empty,
        "SELECT printed, measured, verdict FROM comparison WHERE measured IS NOT NULL "
        "AND paper_table = 'variational_dropout'",
    )
    assert found.rows == [("1.64", pytest.approx(1.642), "reproduced")]
    assert query(empty, "SELECT count(*) > 2000 FROM published").rows == [(True,)]


# Each reads `comparison` in another way; the text of some never names it.
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM comparison",
        "SELECT count(*) FROM published WHERE printed <> 'x'",
        "SELECT count(*) FROM query_table('compa' || 'rison')",
        "FROM query('SELECT count(*) FROM comp' || 'arison')",
        "WITH c AS (FROM comparison) SELECT count(*) FROM c WHERE verdict = 'not run'",
        "SELECT n FROM (SELECT (SELECT count(*) FROM stored.comparison) AS n)",
        'SELECT count(*) FROM "COMPARISON"',
        "SELECT sum(n) FROM (SELECT count(*) AS n FROM published)",
    ],
)
def test_the_published_numbers_are_there_whichever_way_a_query_reads_them(empty, sql):
    [(count,)] = select(empty, sql, comparison.fill).rows
    assert count > 2000


def test_a_query_that_reads_nothing_published_does_not_fill_the_comparison(
    empty, monkeypatch
):
    sql = "SELECT 'comparison', count(*) FROM trials"
    assert select(empty, sql, fill=_never).rows == [("comparison", 0)]


def _never(*_):
    raise AssertionError("the comparison was filled")

"""`why` explains every stored trial, also one whose identity is damaged."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import row

from harness.planning.explain import explain
from results.schema import arrow
from results.storage.store import open_store


@pytest.mark.parametrize("identity", [None, "{}", "[1]", "not JSON", '{"method": 5}'])
def test_a_stored_identity_without_fields_is_explained(tmp_path, identity):
    store = open_store(tmp_path / "store", create=True)
    store.append(row("good", identity='{"ratio": 0.2}'))
    store.append(row("bad", identity=identity, started_at=None))
    planned = {"plan": "p", "trial": "missing", "identity": identity}
    store.record_plan([planned])
    without_id = row("x") | {"trial": None, "schema_version": 1}
    table = pa.Table.from_pylist([without_id], schema=arrow("trials"))
    pq.write_table(table, tmp_path / "store" / "trials" / "x.parquet")

    head, attempt, _ = explain("bad", None, store)
    assert head == "trial bad: ? on ?, ?, ratio ?"
    assert attempt == "  at an unknown time ok"
    assert "it will run" in list(explain("missing", None, store))[1]

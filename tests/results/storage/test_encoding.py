"""Rows become columns exactly, or not at all."""

import datetime as dt
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from synthetic import row

from results.errors import StoreError
from results.schema import TABLES, arrow
from results.storage import encoding

MOMENT = dt.datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=dt.UTC)


def _through(name, *rows):
    return encoding.table(name, [encoding.line(one) for one in rows])


def test_rows_are_what_arrow_makes_of_them_itself():
    rows = [
        row("a", params=2**62 + 1, ratio=0.1 + 0.2, started_at=MOMENT, dirty=True),
        row("b", reason='ü\n"\u2028\x00', measured={"loss": 5e-324, "top": 1.7e308}),
    ]
    by_arrow = pa.Table.from_pylist(rows, schema=arrow("trials"))
    assert _through("trials", *rows).combine_chunks().equals(by_arrow)


def test_samples_longer_than_a_block_come_through():
    values = list(np.random.default_rng(0).normal(size=200_000))
    table = _through("samples", {"attempt": "a", "metric": "m", "values": values})
    assert table.column("values")[0].as_py() == values


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": 1.5},
        {"seed": 2**64},
        {"ratio": "0.2"},
        {"trial": 7},
        {"started_at": "yesterday"},
        {"measurements": 3},
        {"measurements": [{"metric": "m", "value": 1.0, "colour": "red"}]},
        {"ratio": float("nan")},
        {"reason": NotImplemented},
    ],
    ids=str,
)
def test_what_does_not_fit_a_column_is_refused(wrong):
    with pytest.raises(StoreError):
        _through("trials", row("a") | wrong)


def test_numbers_of_numpy_are_numbers():
    table = _through("trials", row("a", seed=np.int64(3), ratio=np.float32(0.5)))
    assert table.select(["seed", "ratio"]).to_pylist() == [{"seed": 3, "ratio": 0.5}]


def test_text_that_is_not_unicode_is_stored_with_marks():
    table = _through("trials", row("a", reason="no file \udcff.txt"))
    assert table.column("reason")[0].as_py() == "no file ?.txt"


def test_a_line_that_hides_a_second_row_is_refused():
    with pytest.raises(StoreError, match="1 lines hold 2 rows"):
        encoding.table("trials", [b'{"trial": "a"}\n{"trial": "b"}'])


def test_no_lines_are_no_rows():
    for name in TABLES:
        assert encoding.table(name, []).schema == arrow(name)


def test_storing_does_not_import_pandas(tmp_path):
    code = (
        "import sys; from results.storage.store import open_store; "
        f"open_store({str(tmp_path / 's')!r}, create=True).append("
        "{'attempt': 'a', 'trial': 't', 'status': 'ok'}); "
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

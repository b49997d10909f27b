"""Each query of docs/how-to/sql.md is run on the stored quick start and compared.

After a new quick start, running this file with SHRINKGRID_REWRITE=STORE takes the rows
of that store over and writes the answers again.
"""

import json
import os
import re

import pytest
from paths import ROOT
from quickstart_rows import ROWS, load_quickstart

from results.queries.db import ask
from results.queries.restricted import select
from results.schema import TABLES
from results.storage.store import Store, open_store
from results.tables import comparison
from results.text.answer import Answer
from results.text.formats import as_markdown

PAGE = ROOT / "docs" / "how-to" / "sql.md"
QUESTION = re.compile(
    r"### (\d+)\. (.+?)\n\n```sql\n(.+?)\n```\n\n(.*?)\n(?=\n###|\Z)", re.S
)
# Of the machine that made them; no answer depends on these.
LEFT_OUT = ("host", "node", "traceback", "identity")


def _take_over(uri: str) -> None:
    """Write the rows of a store to a text file, one a line."""
    store = open_store(uri)
    lines = []
    for table in TABLES:
        for one in ask(store, f"FROM stored.{table} ORDER BY ALL").dicts():
            kept = {k: v for k, v in one.items() if v is not None and k not in LEFT_OUT}
            lines.append(json.dumps({"table": table, **kept}, default=str))
    ROWS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _asked(store: Store, sql: str) -> Answer:
    return select(store, sql, comparison.fill)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory) -> Store:
    if os.environ.get("SHRINKGRID_REWRITE"):
        _take_over(os.environ["SHRINKGRID_REWRITE"])
    store = load_quickstart(
        open_store(tmp_path_factory.mktemp("qs") / "store", create=True)
    )
    if os.environ.get("SHRINKGRID_REWRITE"):
        text = QUESTION.sub(
            lambda m: (
                m[0].replace(m[4], as_markdown(_asked(store, m[3]))) if m[4] else m[0]
            ),
            PAGE.read_text(encoding="utf-8"),
        )
        PAGE.write_text(text, encoding="utf-8")
    return store


def _questions() -> list[tuple[str, str, str]]:
    text = PAGE.read_text(encoding="utf-8")
    return [(m[2], m[3], m[4]) for m in QUESTION.finditer(text)]


def test_the_page_has_twenty_questions():
    assert len(_questions()) == 20


@pytest.fixture(scope="module")
def answers(quickstart) -> list[Answer]:
    return [_asked(quickstart, sql) for _, sql, _ in _questions()]


@pytest.mark.parametrize("number", range(20))
def test_the_answer_is_what_the_query_gives(answers, number):
    assert as_markdown(answers[number]) == _questions()[number][2]


def test_most_answers_have_rows(answers):
    # A page of empty tables would agree with anything.
    assert sum(bool(answer.rows) for answer in answers) >= 15

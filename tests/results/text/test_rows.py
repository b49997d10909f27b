"""Rows in a notebook: what is shown of them, and what they convert to."""

import pytest

from results.text.answer import Answer
from results.text.rows import Rows


def rows(count: int) -> Rows:
    found = [(f"m{n}", None if n % 2 else n / 4) for n in range(count)]
    return Rows(
        Answer(columns=("method", "a<b"), types=("VARCHAR", "DOUBLE"), rows=found)
    )


def test_rows_are_a_list_of_dictionaries():
    found = rows(3)

    assert len(found) == 3
    assert list(found) == [found[n] for n in range(3)]
    assert found[-1] == {"method": "m2", "a<b": 0.5}
    assert found.columns == ("method", "a<b")


def test_every_row_and_column_is_converted():
    expected = {"method": ["m0", "m1", "m2"], "a<b": [0.0, None, 0.5]}
    assert rows(3).arrow().to_pydict() == expected
    frame = rows(3).df()
    assert frame["method"].tolist() == expected["method"]
    assert frame["a<b"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("count", "said"), [(60, None), (61, "1 more"), (1060, "1000 more")]
)
def test_sixty_rows_are_shown_and_the_rest_is_counted(count, said):
    text, html = repr(rows(count)), rows(count)._repr_html_()

    assert "m59" in text
    assert "m60" not in text + html
    assert html.count("<td>m") == 60
    assert "a&lt;b" in html
    for form in (text, html):
        assert ("more rows" in form) == (said is not None)
        assert said is None or f"... and {said} rows" in form

"""Rows as a notebook wants them: a table to look at, a data frame on request."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from results.errors import UserError
from results.text.answer import Answer

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_SHOWN = 60  # rows in the text and HTML form; `df()` has all of them


class Rows:
    """The rows of a query, in the query's order.

    Iterating yields one ``dict`` per row. ``len(rows)``, ``rows.columns`` and
    ``rows[0]`` work as on a list of dictionaries.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self._answer.columns

    def __len__(self) -> int:
        return len(self._answer.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._answer.dicts())

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(zip(self.columns, self._answer.rows[index], strict=True))

    def arrow(self) -> pa.Table:
        """The rows as a pyarrow table."""
        import pyarrow as pa

        arrays = [
            pa.array([row[i] for row in self._answer.rows])
            for i in range(len(self.columns))
        ]
        return pa.Table.from_arrays(arrays, names=list(self.columns))

    def df(self) -> pd.DataFrame:
        """The rows as a pandas data frame; missing values are ``None`` or ``NaN``."""
        import pandas as pd

        return pd.DataFrame(self._answer.rows, columns=list(self.columns))

    def pl(self) -> pl.DataFrame:
        """The rows as a polars data frame.

        Returns:
            One row a row, in the same order.

        Raises:
            UserError: If polars is not installed.
        """
        try:
            import polars as pl
        except ModuleNotFoundError:
            raise UserError(
                "polars is not installed: run `pip install polars`"
            ) from None
        frame = pl.from_arrow(self.arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def __repr__(self) -> str:
        from results.text.formats import render

        first = Answer(
            columns=self.columns,
            types=self._answer.types,
            rows=self._answer.rows[:_SHOWN],
        )
        return render(first, "table") + self._rest()

    def _repr_html_(self) -> str:
        from results.text.formats import shown

        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(shown(v))}</td>" for v in row) + "</tr>"
            for row in self._answer.rows[:_SHOWN]
        )
        rest = f"<p>{escape(self._rest().strip())}</p>" if self._rest() else ""
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"
        )

    def _rest(self) -> str:
        more = len(self) - _SHOWN
        return f"\n... and {more} more rows" if more > 0 else ""

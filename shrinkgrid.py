"""Shrinkgrid from Python: open a store, ask it, plan and run grids, load networks.

>>> import shrinkgrid as sg
>>> sg.run("quickstart", store="store")                         # doctest: +SKIP
>>> results = sg.open("store")                                  # doctest: +SKIP
>>> results.leaderboard(task="digits").df()                     # doctest: +SKIP
>>> results.sql("select status, count(*) as n from newest group by all").pl()
... # doctest: +SKIP

Everything that returns rows returns a ``Rows`` object, which a notebook shows as a
table and which becomes a pandas or polars data frame or an Arrow table on request.
Errors that the caller can correct are ``shrinkgrid.Error``; the message says what was
given, what is allowed, and what to do next.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import UserError as Error
from results.text.rows import Rows

if TYPE_CHECKING:
    from harness.core import Model
    from results.storage.store import Store
    from results.tables.paper import Table

__all__ = [
    "Error",
    "PaperTable",
    "Results",
    "Rows",
    "Run",
    "load_model",
    "open",
    "plan",
    "run",
]


class PaperTable(Rows):
    """A paper's table, with the measured number beside each published one.

    As ``Rows`` it has one row per cell: ``published``, ``measured``, the interval
    ``low`` to ``high``, ``verdict`` and ``reason``. A notebook shows it in the paper's
    layout.
    """

    def __init__(self, table: Table) -> None:
        from results.tables.paper import as_answer

        super().__init__(as_answer(table))
        self._table = table

    def render(self, format: str = "md") -> str:  # noqa: A002 - as on the command line
        """The table as text: ``rich``, ``md``, ``latex``, ``csv`` or ``html``."""
        from results.tables.render import render

        return render(self._table, format)

    def __repr__(self) -> str:
        return self.render("md")

    def _repr_html_(self) -> str:
        return self.render("html")


class Results:
    """What a store holds. ``shrinkgrid.open`` makes one; it keeps no copy of the rows.

    Each method reads the store as it is at the moment of the call, so that the same
    object shows the progress of a grid that runs elsewhere.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def uri(self) -> str:
        """Folder or bucket of the store."""
        return self._store.uri

    def leaderboard(
        self,
        *,
        model: str | Iterable[str] = (),
        task: str | Iterable[str] = (),
        metric: str | Iterable[str] = (),
        method: str | Iterable[str] = (),
    ) -> Rows:
        """The leaderboard: one row per model, task, metric, method and ratio.

        The dense model comes first in each board, then the methods by rank within each
        ratio. ``mean`` is the value over seeds, ``recovery`` its share of the dense
        value.

        Args:
            model: Names to keep; none keeps every model.
            task: Names to keep.
            metric: Names to keep; by default the primary metric of each task, ``all``
                keeps every metric.
            method: Names to keep.

        Returns:
            The rows.

        Raises:
            Error: If the store has no measured number, or none with such a name.
        """
        from results.boards import leaderboard

        only = {"model": model, "task": task, "metric": metric, "method": method}
        chosen = {column: _names(names) for column, names in only.items()}
        return Rows(leaderboard.read(self._store, **chosen))

    def trials(self) -> Rows:
        """The newest attempt of every trial, finished or not, with every column."""
        return self.sql("FROM newest")

    def sql(self, query: str) -> Rows:
        """The rows of one SELECT over the store's tables and views.

        Args:
            query: SQL as DuckDB understands it. Views: ``newest``, ``leaderboard``,
                ``recovery``, ``pareto``, ``completeness``, ``failures``, ``cost`` and
                the tables behind them.

        Returns:
            The rows.

        Raises:
            Error: If the query is not a valid SELECT or reads anything but the store.
        """
        from results import ask

        return Rows(ask.query(self._store, query))

    def table(self, paper: str) -> PaperTable:
        """A paper's table; ``shrinkgrid list papers`` names them.

        Args:
            paper: Such as ``basis_sharing_1``.

        Returns:
            The table; cells that were not measured say why.

        Raises:
            Error: If no table has this name.
        """
        from results.tables import published
        from results.tables.paper import paper_table

        return PaperTable(paper_table(self._store, published.read(paper)))

    def __repr__(self) -> str:
        rows = self.sql(
            "SELECT status, count(*) AS n FROM newest GROUP BY 1 ORDER BY 1"
        )
        counts = ", ".join(f"{row['n']} {row['status']}" for row in rows)
        return f"<shrinkgrid store {self.uri}: {counts or 'no trials'}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a run ended.

    Args:
        results: The store that the run wrote to.
        counts: Attempts of this run by status (``ok``, ``failed``, ...).
        stopped: Why the run ended early; None if it ran to the end.
    """

    results: Results
    counts: dict[str, int]
    stopped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every trial of the run ended ``ok`` or is not supported."""
        return self.stopped is None and not set(self.counts) - {"ok", "unsupported"}


def open(store: str | Path = "store") -> Results:  # noqa: A001 - read as shrinkgrid.open
    """Opens a store that exists.

    Args:
        store: A folder, or ``s3://BUCKET/PATH`` and the like.

    Returns:
        The results in it.

    Raises:
        Error: If there is no store at this place.
    """
    from results.storage.store import open_store

    return Results(open_store(str(store)))


def plan(grid: str | Path | Mapping[str, Any], store: str | Path = "store") -> Rows:
    """Lists what a run of a grid would do, without running anything.

    Args:
        grid: A grid file, the name of a packaged grid, or its content as a mapping.
        store: Where finished trials are looked for; it need not exist.

    Returns:
        One row per trial: ``state`` is ``run``, ``done``, ``unsupported`` or the status
        of a failed trial, ``unsupported`` the reason.

    Raises:
        Error: With every error of the grid.
    """
    from harness.planning.selection import plan_row, states
    from harness.running import session
    from results.text.answer import Answer

    with _grid_file(grid) as name:
        planned = session.prepare(name, _existing(store))
    rows = [
        {"state": state, **plan_row(trial, reason)}
        for state, trial, reason in states(planned.plan)
    ]
    columns = tuple(rows[0]) if rows else ()
    return Rows(
        Answer(
            columns=columns,
            types=tuple("VARCHAR" for _ in columns),
            rows=[tuple(row.values()) for row in rows],
        )
    )


def run(
    grid: str | Path | Mapping[str, Any],
    store: str | Path = "store",
    *,
    address: str = "local",
    cpus: int | None = None,
    max_failures: int | None = None,
    keep_models: bool = False,
) -> Run:
    """Runs the trials of a grid that the store lacks, and waits for them.

    Args:
        grid: A grid file, the name of a packaged grid, or its content as a mapping.
        store: A folder or a bucket; made if it does not exist.
        address: ``local`` starts Ray on this machine, ``auto`` or ``HOST:PORT`` joins a
            cluster, ``inline`` runs every trial in this process without Ray.
        cpus: Processors of a local Ray; None takes all.
        max_failures: Stop after this many failed trials; None never stops.
        keep_models: Store the compressed network of each trial, which
            ``shrinkgrid save-model`` then takes.

    Returns:
        How the run ended, with the results.

    Raises:
        Error: If the grid has errors, or another driver runs its trials.
    """
    from rich.console import Console

    from harness.cli.live_view import View
    from harness.executors.choice import executor_for
    from harness.running import session
    from results.storage.store import open_store

    opened = open_store(str(store), create=True)
    session.recover(opened)
    with (
        _grid_file(grid) as name,
        session.claim(name, opened, session.Selection()) as claimed,
    ):
        if not claimed.planned.plan.bundles:
            return Run(results=Results(opened), counts={})
        executor = executor_for(address, cpus, opened)
        try:
            console = Console(stderr=True)
            with View(claimed.planned.plan.trials, console) as view:
                outcome = session.drive(
                    claimed,
                    opened,
                    executor,
                    view,
                    max_failures=max_failures,
                    keep_models=keep_models,
                )
        finally:
            executor.close()
    return Run(
        results=Results(opened), counts=dict(outcome.counts), stopped=outcome.stopped
    )


def load_model(folder: str | Path) -> Model:
    """Loads a compressed network that ``shrinkgrid save-model`` wrote.

    Args:
        folder: With ``model.safetensors`` and ``structure.json``.

    Returns:
        The model: ``model.net`` is a ``torch.nn.Module`` in eval mode on the CPU,
        ``model.encode(text)`` gives token ids, ``model.tokenizer`` decodes them.

    Raises:
        Error: If the folder does not hold a saved network.
    """
    from harness.toolkit.saved_model import load

    return load(Path(folder))


@contextlib.contextmanager
def _grid_file(grid: str | Path | Mapping[str, Any]) -> Iterator[str]:
    """Yields the name of a grid's file; a mapping is written to a temporary one."""
    if not isinstance(grid, Mapping):
        yield str(grid)
        return
    with tempfile.TemporaryDirectory(prefix="shrinkgrid-") as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(json.dumps(grid), encoding="utf-8")  # JSON is YAML
        yield str(path)


def _existing(store: str | Path) -> Store | None:
    from results.storage.store import open_store

    try:
        return open_store(str(store))
    except Error:
        return None


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)

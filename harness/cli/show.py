"""Commands that show results: table, verify, report, plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete
from harness.cli._common import on_store

if TYPE_CHECKING:
    from results.storage.store import Store

_PLOTS = ["pareto", "curves"]


@click.command()
@click.argument("paper", required=False, shell_complete=_complete.papers)
@click.option(
    "--format",
    "form",
    type=click.Choice(["rich", "md", "latex", "csv", "csv-raw", "html"]),
    default="rich",
    show_default=True,
    help="How to print; md, latex and html carry keys that `verify` reads; csv-raw "
    "leaves cells that begin with = + - @ as they are.",
)
@click.option("--model", help="Show this model of the store in place of the paper's.")
@click.option(
    "--substitute",
    multiple=True,
    metavar="THEIRS=OURS",
    help="Show OURS where the paper has THEIRS; may be repeated.",
)
@click.option("--rows", multiple=True, help="A table of your own: method, model ...")
@click.option("--cols", multiple=True, help="What its columns are: task, ratio ...")
@click.option("--metric", help="What its cells are.")
@click.option("--where", help="SQL condition on the view `scores`.")
@click.option("--allow-mixed", is_flag=True, help="Let a column mix protocols.")
@on_store
def table(store: Store, paper: str | None, form: str, **options: Any) -> None:
    """Print a table of PAPER, published beside measured numbers.

    PAPER is a name that `shrinkgrid list papers` gives, or a YAML file of that kind.
    Without it, --rows, --cols and --metric make a table of your own.
    """
    from results.tables.custom import custom_table
    from results.tables.paper import paper_table
    from results.tables.published import read
    from results.tables.render import render

    other = ("model", "substitute") if paper is None else _OWN
    wrong = [f"--{key.replace('_', '-')}" for key in other if options[key]]
    if wrong:
        whose = "PAPER's table" if paper is None else "a table without PAPER"
        raise click.UsageError(f"{', '.join(wrong)} is for {whose}")
    if paper is None:
        made = custom_table(
            store,
            rows=options["rows"] or ("method",),
            cols=options["cols"] or ("task",),
            metric=_required(options["metric"]),
            where="true" if options["where"] is None else options["where"],
            allow_mixed=options["allow_mixed"],
        )
    else:
        made = paper_table(
            store,
            read(paper),
            substitutes=_pairs(options["substitute"]),
            every_model=options["model"],
        )
    click.echo(render(made, form))


_OWN = ("rows", "cols", "metric", "where", "allow_mixed")


def _required(metric: str | None) -> str:
    if metric is None:
        raise click.UsageError(
            "name a paper (`shrinkgrid list papers`), or a --metric for a table of "
            "your own"
        )
    return metric


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in given:
        theirs, equals, ours = text.partition("=")
        if not (theirs and equals and ours):
            raise click.UsageError(f"--substitute {text!r} is not THEIRS=OURS")
        pairs[theirs] = ours
    return pairs


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@on_store
def verify(store: Store, file: Path) -> int:
    """Check the numbers of a written table FILE against the store.

    Exit status 1 if any number drifted or its trials are gone.
    """
    from results.tables.verify import verify as check
    from results.text.counts import counted

    checked, drifted = check(store, file)
    for drift in drifted:
        given = drift.computed or "nothing: its trials are not in the store"
        click.echo(
            f"{file}:{drift.written.line}: {drift.written.printed} is written, "
            f"the store gives {given}"
        )
    click.echo(
        f"{counted(checked, 'number')} checked, {len(drifted)} drifted", err=True
    )
    return 1 if drifted else 0


@click.command()
@click.argument("grid", required=False, shell_complete=_complete.stored_grids)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="report",
    show_default=True,
    help="Folder for index.html.",
)
@on_store
def report(store: Store, grid: str | None, out: Path) -> None:
    """Write the store as one web page: boards, charts, trials.

    Leaderboards, charts, papers, trials and failures are in one file that needs no
    network. With GRID, the name of a grid that was run, only its trials and the dense
    trials of its models.
    """
    from results.boards.report import write
    from results.queries import grids

    chosen = store if grid is None else grids.only(store, grid)
    click.echo(f"wrote {write(chosen, out)}", err=True)


@click.command()
@click.argument("kind", type=click.Choice(_PLOTS))
@click.option("--model", help="Needed where the store has several.")
@click.option("--task", help="Needed where the store has several.")
@click.option("--metric", help="By default the one that the task measures first.")
@click.option("--protocol", help="Needed where the task was measured in several ways.")
@click.option(
    "--cost",
    default="params",
    show_default=True,
    help="Of a Pareto plot: params, params_nonzero, bytes, macs, or a measured time: "
    "latency, prefill, decode.",
)
@click.option("--timed", help="Protocol of the time, where it was measured in several.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The figure; its suffix (.svg, .pdf, .png) says the format.",
)
@on_store
def plot(
    store: Store,
    kind: str,
    cost: str,
    timed: str | None,
    out: Path,
    **only: str | None,
) -> None:
    """Draw a figure of one model and task: pareto or curves.

    Curves show the recovery by ratio; pareto shows the metric by the --cost.
    """
    from results.boards import costs, figures
    from results.boards.leaderboard import one_board
    from results.errors import StoreError, unknown

    form = out.suffix.removeprefix(".")
    if form not in ("svg", "pdf", "png"):
        raise StoreError(
            f"--out {out} does not end in .svg, .pdf or .png, which say the format"
        )
    if cost not in costs.COSTS:
        raise unknown("cost", cost, costs.COSTS)
    rows = one_board(store, **{k: [v] for k, v in only.items() if v is not None})
    if kind == "pareto" and cost in costs.TIMES:
        rows = costs.timed(store, rows, cost, timed)
    content = figures.draw(kind, rows, cost=cost, form=form)
    try:
        out.write_bytes(content)
    except OSError as why:
        raise StoreError(f"{out} cannot be written: {why.strerror}") from why
    click.echo(f"wrote {out}", err=True)

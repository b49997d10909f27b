"""The packaged store `measured`, and the tables of the documentation that show it.

    python docs/measured.py build STORE...   join stores into results/measured
    python docs/measured.py tables           write the tables of the pages again

The packaged store has the numbers alone: names of machines are left out, and so are
samples beyond those that the marks of leaderboards need.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb

import shrinkgrid
from results.boards import leaderboard, narrowing
from results.queries.compaction import compact
from results.queries.db import ask
from results.queries.merging import merge
from results.queries.removal import remove
from results.schema import TABLES, ddl
from results.storage.store import open_store
from results.text.formats import DASH, number
from results.text.labels import method_label

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = ROOT / "results/measured"
PAGES = ROOT / "docs/explanation"
MARKED = re.compile(
    r"(<!-- measured (?P<asked>[^>]*?) -->\n).*?(<!-- end of measured -->)", re.DOTALL
)
NAMELESS = ("host", "node")
HEAD = ("ratio", "method", "metric", "achieved", "params", "bytes", "seeds")


def build(sources: list[str]) -> None:
    """Join stores into the packaged one."""
    with tempfile.TemporaryDirectory() as name:
        joined = open_store(Path(name) / "joined", create=True)
        folder = joined.folder.local
        assert folder is not None
        for source in sources:
            merge(open_store(source), joined)
        # Newer trials replace them: no ranking and no table would show them.
        old = ask(joined, "SELECT trial FROM superseded").rows
        remove(joined, {trial for (trial,) in old})
        compact(joined, at_least=1)
        for table in ("trials", "samples", "plans"):
            for path in folder.glob(f"{table}/compacted/*.parquet"):
                _rewrite(path, table)
        shutil.rmtree(PACKAGED, ignore_errors=True)
        for table in ("trials", "samples", "plans"):
            to = PACKAGED / table / "compacted"
            to.mkdir(parents=True)
            for number_, path in enumerate(
                sorted(folder.glob(f"{table}/compacted/*.parquet"))
            ):
                shutil.copy(path, to / f"{number_}.parquet")
                (to / f"{number_}.json").write_text("[]\n")
        shutil.copy(folder / "format.json", PACKAGED / "format.json")


def _rewrite(path: Path, table: str) -> None:
    """Give a file all columns of today, and empty those that name machines.

    Of the plans of a grid the newest stays, which is the one that counts.
    """
    named = [name for name in NAMELESS if name in TABLES[table]]
    empty = ", ".join(f"NULL::VARCHAR AS {name}" for name in named)
    replaced = f"REPLACE ({empty})" if named else ""
    newest = "SELECT arg_max(plan, planned_at) FROM today GROUP BY grid"
    kept = f"WHERE plan IN ({newest})" if table == "plans" else ""
    first = ", ".join(name for name in ("trial", "attempt") if name in TABLES[table])
    beside = path.with_suffix(".new")
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE today ({ddl(table)})")
        connection.execute(
            "INSERT INTO today BY NAME FROM "
            f"read_parquet('{path}', hive_partitioning = false)"
        )
        connection.execute(
            f"COPY (SELECT * {replaced} FROM today {kept} ORDER BY {first}) "
            f"TO '{beside}' (FORMAT parquet, COMPRESSION zstd)"
        )
    beside.replace(path)


def table(asked: str) -> str:
    """A Markdown table of one leaderboard, or of a paper.

    Args:
        asked: ``key=value`` words: ``paper`` alone; or model, task and metric;
            ``grid``, whose trials are meant; ``of``, a part of the model's options;
            ``methods``, names with commas between them; ``hide``, options that the
            text names, whole or by field; ``also``, more columns of the leaderboard.

    Returns:
        The lines of the table.
    """
    only = dict(word.split("=", 1) for word in asked.split())
    if "paper" in only:
        text = shrinkgrid.open(str(PACKAGED)).table(only["paper"]).render("md")
        return f"\n{text}\n\n"
    methods, hidden = only.pop("methods", ""), only.pop("hide", "")
    also = [name for name in only.pop("also", "").split(",") if name]
    wanted = {"dense", *methods.split(",")} if methods else None
    store, grid, sizes = open_store(PACKAGED), only.pop("grid", ""), only.pop("of", "")
    found = leaderboard.read(store, **{key: [one] for key, one in only.items()})
    if grid:
        found = narrowing.of_grid(store, found, grid)
    rows = [row for row in found.dicts() if sizes in (row["model_options"] or "")]
    boards = {tuple(row[name] for name in leaderboard.BOARD) for row in rows}
    if len(boards) != 1:
        raise ValueError(f"{asked}: {len(boards)} leaderboards fit")
    head = [only.get("metric", rows[0]["metric"]) if h == "metric" else h for h in HEAD]
    head[-1:-1] = [name.replace("trained_", "") for name in also]
    lines = [head, [":---" if h == "method" else "---:" for h in head]]
    calibrations = {row["calibration"] for row in rows} - {None}
    for row in rows:
        if wanted is not None and row["method"] not in wanted:
            continue
        error = "" if row["stderr"] is None else f" ± {number(row['stderr'])}"
        achieved = DASH if row["achieved"] is None else f"{row['achieved']:.3f}"
        lines.append(
            [
                number(row["ratio"]),
                _named(row, hidden, told=len(calibrations) > 1),
                f"{number(row['mean'])}{error}",
                achieved if row["method"] != "dense" else DASH,
                f"{row['params']:,.0f}",
                DASH if row["bytes"] is None else f"{row['bytes']:,.0f}",
                *(DASH if row[n] is None else f"{row[n]:,.0f}" for n in also),
                str(row["seeds"]),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _named(row: dict[str, Any], hidden: str, *, told: bool) -> str:
    """The label of a method, with its calibration only if others have another."""
    words = method_label(row if told else row | {"calibration": None}).split(" ")
    prefixes = tuple(f"{n}{end}" for n in hidden.split(",") if n for end in ".=")
    kept = [word for word in words if not word.startswith(prefixes)]
    return " ".join(kept).replace("_", "\\_")


def filled(text: str) -> str:
    """A page with each of its tables written again."""
    return MARKED.sub(lambda m: m[1] + table(m["asked"]) + m[3], text)


def tables() -> None:
    """Write the tables of every page."""
    for page in sorted(PAGES.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if MARKED.search(text):
            page.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["build"] and len(sys.argv) > 2:
        build(sys.argv[2:])
    elif sys.argv[1:] == ["tables"]:
        tables()
    else:
        sys.exit(__doc__)

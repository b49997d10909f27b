"""One table of all benchmarks: `make bench`, and `make bench-compare BASE=FILE`.

    python benchmarks/_table.py run [NAME ...]   run all or some, write their rows
    python benchmarks/_table.py compare BASE     fail if a ratio got worse by 20 %

The table is in docs/explanation/benchmarks.md, which is also what an earlier table is:
`git show v0.1:docs/explanation/benchmarks.md > base.md`. Rows of benchmarks that do not
run stay as they are. Only ratios of two times of one run are compared, since two
machines have nothing else in common.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from _figures import RATIO, Figure, read

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/explanation/benchmarks.md"
HEAD = (
    "| benchmark | figure | measured | to reach | | date | machine |\n"
    "| :--- | :--- | ---: | ---: | :--- | :--- | :--- |\n"
)
TABLE = re.compile(r"(<!-- figures -->\n).*?(<!-- end of figures -->)", re.DOTALL)
SIGNS = {"≥": "least", "≤": "most"}
ROW = re.compile(
    r"\| (?P<benchmark>\w+) \| (?P<name>[^|]+) \| (?P<value>\S+) (?P<unit>\S+) "
    r"\| (?P<sign>[≥≤]) (?P<bar>\S+) \| [^|]* \| (?P<date>[^|]+) "
    r"\| (?P<machine>[^|]+) \|"
)
WORSE = 0.2  # the share by which a ratio may get worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure with where and when it was measured."""

    benchmark: str
    figure: Figure
    date: str
    machine: str

    def __str__(self) -> str:
        one = self.figure
        sign = next(sign for sign, side in SIGNS.items() if side == one.side)
        cells = (
            self.benchmark,
            one.name,
            f"{one.value:.3g} {one.unit}",
            f"{sign} {one.bar:g}",
            "reached" if one.reached else "**open**",
            self.date,
            self.machine,
        )
        return f"| {' | '.join(cells)} |\n"


def rows(page: str) -> list[Row]:
    """The rows of a page, in order."""
    found = []
    for match in ROW.finditer(page):
        printed = (
            f"figure  {match['name']}: {match['value']} {match['unit']}, "
            f"to reach: at {SIGNS[match['sign']]} {match['bar']}"
        )
        figure = read(printed)
        assert figure is not None, match[0]
        found.append(
            Row(
                benchmark=match["benchmark"],
                figure=figure,
                date=match["date"],
                machine=match["machine"],
            )
        )
    return found


def replaced(page: str, name: str, measured: list[Row]) -> str:
    """A page with other rows for one benchmark; rows are sorted by benchmark."""
    kept = [row for row in rows(page) if row.benchmark != name]
    whole = sorted([*kept, *measured], key=lambda row: row.benchmark)
    body = HEAD + "".join(map(str, whole))
    return TABLE.sub(lambda m: m[1] + body + m[2], page)


def regressions(base: list[Row], now: list[Row]) -> list[str]:
    """Each ratio that is worse than in an earlier table by more than ``WORSE``.

    Args:
        base: Rows of the earlier table.
        now: Rows of the table of today.

    Returns:
        One line for each, also for a ratio that was not measured again.
    """
    found = []
    today = {(row.benchmark, row.figure.name): row.figure for row in now}
    for row in base:
        before, name = row.figure, f"{row.benchmark}: {row.figure.name}"
        after = today.get((row.benchmark, before.name))
        if before.unit != RATIO:
            continue
        if after is None:
            found.append(f"{name}: {before.value:g} before, and no row today")
        elif (worse := after.worse_than(before)) > WORSE:
            found.append(
                f"{name}: {before.value:g} before, {after.value:g} today, "
                f"{100 * worse:.0f} % worse"
            )
    return found


def run(name: str, page: Path) -> None:
    """Run one benchmark, pass on what it prints, and write its rows."""
    where = machine()  # before it runs: the load is that of other work
    script = ROOT / f"benchmarks/{name}.py"
    line = [sys.executable, "-u", str(script)]
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    measured = []
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            sys.stdout.write(printed)
            figure = read(printed)
            if figure is not None:
                measured.append(
                    Row(benchmark=name, figure=figure, date=date, machine=where)
                )
    if process.returncode:
        sys.exit(f"benchmarks/{name}.py failed; its rows are as before")
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, name, measured), encoding="utf-8")


def machine() -> str:
    """Processors, and how many of them other work keeps busy."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    found = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    kind = found[1].replace("|", "/") if found else "unknown processor"
    return f"{kind}, {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Run, or compare."""
    known = sorted(p.stem for p in (ROOT / "benchmarks").glob("[!_]*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    commands.add_parser("compare").add_argument("base", type=Path)
    asked = parser.parse_args()
    if asked.command == "run":
        if unknown := [name for name in asked.names if name not in known]:
            parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
        for name in asked.names or known:
            run(name, PAGE)
        return
    if not asked.base.is_file():
        parser.error(f"no file {asked.base}: BASE is an earlier benchmarks.md")
    base = rows(asked.base.read_text(encoding="utf-8"))
    if not base:
        parser.error(f"{asked.base} has no table of benchmarks")
    worse = regressions(base, rows(PAGE.read_text(encoding="utf-8")))
    for line in worse:
        print(line)
    print(f"{len(base)} figures compared, {len(worse)} worse")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()

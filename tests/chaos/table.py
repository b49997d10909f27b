"""Does every fault of the table, and writes docs/explanation/faults.md.

Run as `make faults`; with names, only those rows are measured again.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import pytest
from faults import Fault, table
from scene import Outcome

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/faults.md"
ROW = r"^(\| ([^|]+?) \| .*\n)"
HEAD = (
    "| fault | what is done | finished before | lost | doubled | the run | the same "
    "line again | s to recover |\n|---|---|---:|---:|---:|---|---|---:|\n"
)


def line(fault: Fault, outcome: Outcome) -> str:
    """One row of the table."""
    assert outcome.missing == 0, f"{fault.name}: the grid is not complete"
    assert outcome.lost == outcome.doubled == 0, f"{fault.name}: {outcome}"
    cells = (
        fault.name,
        fault.does.removesuffix("."),
        outcome.finished,
        outcome.lost,
        outcome.doubled,
        outcome.ended,
        outcome.again,
        f"{outcome.seconds:.0f}" if outcome.seconds >= 1 else f"{outcome.seconds:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def between(mark: str, text: str, page: str) -> str:
    """The page with ``text`` between two marks."""
    pattern = rf"(<!-- {mark} -->\n).*?(<!-- end of {mark} -->)"
    made, count = re.subn(
        pattern, lambda m: m[1] + text + m[2], page, count=1, flags=re.S
    )
    assert count == 1, f"{PAGE.name} has no place for {mark}"
    return made


def keep(name: str, row: str) -> None:
    """Write one row into the page as it is now; the others stay."""
    page = PAGE.read_text()
    # Of this table alone: that of the soak names some of the same faults.
    own = page.partition("<!-- table -->")[2].partition("<!-- end of table -->")[0]
    rows = {cell: line for line, cell in re.findall(ROW, own, flags=re.M)}
    rows[name] = row
    body = HEAD + "".join(rows[name] for name in table() if name in rows)
    PAGE.write_text(between("table", body, page))


def main(names: list[str]) -> None:
    """Measure, and write each row at once."""
    os.environ["SHRINKGRID_PLUGINS"] = str(ROOT / "tests/toys")
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name, fault in table().items():
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = line(fault, fault.harm(Path(folder)))
            except pytest.skip.Exception as why:  # the row of another machine stays
                row = f"skipped: {name}: {why}\n"
            else:
                keep(name, row)
        sys.stdout.write(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

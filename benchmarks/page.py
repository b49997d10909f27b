"""The live page over 100,000 trials: `python benchmarks/page.py`.

Each request of the page is answered by a server that has answered nothing yet, in a
process that has opened the store before. Then a headless Chromium opens the page, until
the first leaderboard is there. The store is that of `query.py`, compacted.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _figures import show
from query import fill, trials

from results.boards import server
from results.queries.compaction import compact
from results.storage.store import open_store

TRIALS = 100_000
REPEATS = 3
MOST_CPU = 1  # seconds of an answer
MOST_FIRST = 10  # seconds until a reader sees a leaderboard
VIEWS = ("overview", "boards", "coverage", "papers", "ranks", "timeline/bench")


def answer(folder: Path, request: str) -> tuple[float, float, int]:
    """Median seconds, median processor seconds and bytes of one answer."""
    spent = []
    for _ in range(REPEATS):
        answers = server.Answers(open_store(folder))
        wall, cpu = time.perf_counter(), time.process_time()
        found = answers.answer(request)
        assert found is not None, request
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*spent, strict=True)
    return median(walls), median(cpus), len(found)


def first_board(folder: Path) -> float:
    """Seconds from the start of the navigation until a leaderboard is drawn."""
    from listening import listening
    from live_browser import opened

    async def drawn(port: int) -> float:
        with tempfile.TemporaryDirectory() as profile:
            url = f"http://127.0.0.1:{port}/#/board"
            async with opened(url, Path(profile)) as page:
                await page.until("document.querySelector('.answers')")
                return float(await page.run("return performance.now() / 1000;"))

    with listening(server.app(open_store(folder))) as port:
        return asyncio.run(drawn(port))


def main() -> None:
    """Print one line a request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the store here")
    given = parser.parse_args()
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests/support"))
    folder = given.folder or Path(tempfile.mkdtemp(prefix="shrinkgrid-page-")) / "store"
    if not folder.exists():
        store = open_store(folder, create=True)
        fill(store, TRIALS, 5_000)
        compact(store)
    one = f"trial/{next(trials(2))['trial']}"
    answer(folder, one)  # imports
    print("request            seconds     CPU      MB")
    for request in (*VIEWS, one):
        seconds, cpu, size = answer(folder, request)
        name = request.partition("/")[0]
        print(f"{name:16}  {seconds:8.2f}  {cpu:6.2f}  {size / 1e6:6.2f}")
        what = f"processor time of {name} on the page, {TRIALS:,} trials"
        show(what, cpu, "s", side="most", bar=MOST_CPU)
    seconds = median(first_board(folder) for _ in range(REPEATS))
    what = f"first leaderboard in a browser, {TRIALS:,} trials"
    show(what, seconds, "s", side="most", bar=MOST_FIRST)


if __name__ == "__main__":
    main()

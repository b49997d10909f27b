"""The live page beside a real run, in a real browser."""

import asyncio
import subprocess
import sys

from browser import in_browser
from listening import listening
from live_browser import opened

from results.boards import server
from results.storage.store import open_store

pytestmark = in_browser
TRIALS = "[aria-label='Running trials'] tbody tr"


def test_the_overview_follows_a_real_run_without_a_reload(toy_grid, toys, tmp_path):
    task = {"name": "toy_slow", "seconds": 6}
    grid = toy_grid("slow", tasks=[task], ratios=[0.25, 0.5])
    store = open_store(tmp_path / "store", create=True)
    words = ["run", str(grid), "--store", store.uri, "--address", "inline"]

    async def watched(port):
        async with opened(f"http://127.0.0.1:{port}/#/overview", tmp_path) as page:
            await page.until("document.querySelector('.empty')")
            await page.run("window.kept = 1")  # a reload would lose it
            run = subprocess.Popen([sys.executable, "-m", "harness", *words])
            try:
                await page.until("document.querySelector('.run b + b')")  # time left
                await page.until(f"document.querySelector({TRIALS!r})")
                step = f"document.querySelector({TRIALS!r} + ' [data-head=Step]')"
                await page.until(f"{step}?.innerText.includes('evaluating')")
                seen = await page.run(
                    f"""const text = (s) => document.querySelector(s).innerText;
                    return {{ run: text(".run"), trial: text({TRIALS!r}) }};"""
                )
                await page.run("location.hash = '#/grid/slow'")
                await page.until("document.querySelector('.progress .ok')")
                ended = "2 done of 2 planned trials"
                await page.until(f"document.body.innerText.includes('{ended}')")
                await page.until("!document.querySelector('.run')")
                await page.until("document.querySelector('figure[data-drawn] svg')")
                end = await page.run(
                    """return { kept: window.kept, text: document.body.innerText };"""
                )
            finally:
                run.wait(60)
            return seen, end, page.said, page.asked

    with listening(server.app(store)) as port:
        seen, end, said, asked = asyncio.run(watched(port))

    assert "0 of 2 trials of this run ended, about" in seen["run"]
    assert "toy_drop" in seen["trial"]
    assert end["kept"] == 1
    assert "No trial failed." in end["text"]
    assert said == []
    own = (f"http://127.0.0.1:{port}/", "blob:", "data:")
    assert [url for url in asked if not url.startswith(own)] == []

"""A headless Chromium that stays open on a page of a server; tests drive it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from browser import CHROMIUM

_PAUSE = 0.3  # seconds between two looks
_ANSWER = 120  # seconds that the browser has to answer


class LivePage:
    """A page; ``said`` has its console and errors, ``asked`` what it requested."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.said: list[str] = []
        self.asked: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            heard = message.json()
            what, told = heard.get("method"), heard.get("params", {})
            if "id" in heard:
                self._waiting.pop(heard["id"]).set_result(heard)
            elif what == "Runtime.exceptionThrown":
                self.said.append(str(told["exceptionDetails"]))
            elif what == "Runtime.consoleAPICalled":
                self.said.append(str(told["args"]))
            elif what == "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(
            {"id": number, "method": method, "params": parameters}
        )
        return (await asyncio.wait_for(self._waiting[number], _ANSWER))["result"]

    async def run(self, script: str) -> Any:
        """What the body of an async function returns in the page."""
        made = f"(async () => {{ {script} }})()"
        found = await self.send(
            "Runtime.evaluate", expression=made, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, condition: str, seconds: float = 200.0) -> None:
        """Wait until an expression holds in the page."""
        deadline = time.monotonic() + seconds
        while not await self.run(f"return Boolean({condition});"):
            text = await self.run("return document.body.innerText;")
            assert time.monotonic() < deadline, f"never {condition}:\n{text}"
            await asyncio.sleep(_PAUSE)


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[LivePage]:
    """Open an address.

    Args:
        url: The address.
        folder: Where the browser keeps its files.
    """
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    words += ["--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}"]
    said = folder / "chromium.log"  # a pipe that nobody reads would stop the browser
    with said.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(CHROMIUM), *words, "about:blank", stderr=log
        )
    try:
        while not (port := re.search(rb"ws://127.0.0.1:(\d+)/", said.read_bytes())):
            assert process.returncode is None, said.read_text()
            await asyncio.sleep(_PAUSE)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{int(port[1])}/json") as listed,
        ):
            pages = [p for p in await listed.json() if p["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
                page = LivePage(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Network"):
                    await page.send(f"{domain}.enable")
                await page.send("Page.navigate", url=url)
                yield page
                listening.cancel()
    finally:
        process.terminate()
        await process.wait()

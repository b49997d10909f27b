"""The page: one HTML file with the data of a store inside, or for the live view."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from results.boards import page_data
from results.errors import StoreError
from results.queries.db import ask
from results.queries.reading import reading
from results.storage.store import Store

MOST_TRIALS = 2000  # trials whose own page is in a report; `serve` shows all of them


def write(store: Store, out: Path) -> Path:
    """Write ``index.html`` into a folder.

    Args:
        store: The store to report.
        out: The folder; it is made if missing, and the file is replaced.

    Returns:
        The path of the file.

    Raises:
        StoreError: If the store has no trial, or the folder cannot be written.
    """
    file = out / "index.html"
    if out.exists() and not out.is_dir():
        raise StoreError(
            f"{out} is a file, and the report is written into a folder; name a folder "
            "with --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(page(store), encoding="utf-8")
    except OSError as why:
        raise StoreError(f"{out} cannot be written: {why.strerror}") from why
    return file


def page(store: Store) -> str:
    """Return the page with the data of one state of a store inside.

    Args:
        store: The store to report.

    Returns:
        HTML that needs no other file and no network.

    Raises:
        StoreError: If the store has no trial.
    """
    return html(reading(store, _data))


def _data(snapshot: Store) -> dict[str, Any]:
    found = ask(snapshot, "SELECT count(*) FROM trials")
    if not found.rows[0][0]:
        raise StoreError(f"the store {snapshot.uri} has no trial to report")
    return page_data.everything(snapshot, MOST_TRIALS)


def html(data: dict[str, Any] | None) -> str:
    """Put the modules, the style, the chart library and the data into one page.

    A page that is opened from a file cannot import modules from other files. The import
    map therefore gives each module as a ``data:`` address. Only scripts with the nonce
    of this page, and what they import, run; a name in the data that closes an element
    cannot start a script.

    Args:
        data: Request -> answer; None for a page that asks the server.

    Returns:
        The page.
    """
    folder = files("results") / "page"
    modules = {
        f"page/{file.name}": _address(file.read_text(encoding="utf-8"))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".js")
    }
    text = _json(data)
    parts = {
        "{{style}}": (folder / "page.css").read_text(encoding="utf-8"),
        "{{modules}}": _json({"imports": modules}),
        "{{charts}}": _charts(),
        "{{data}}": text,
        # Not random, so that equal data give an equal page. A name in the data cannot
        # know it: the nonce is a hash of the data that contains the name.
        "{{nonce}}": hashlib.sha256(text.encode()).hexdigest()[:32],
    }
    made = (folder / "index.html").read_text(encoding="utf-8")
    for mark in ("{{nonce}}", "{{style}}", "{{modules}}", "{{charts}}", "{{data}}"):
        made = made.replace(mark, parts[mark])  # the data last: it is never searched
    return made


def _address(module: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(module.encode()).decode()}"


@functools.cache  # seconds, and the same for every page
def _charts() -> str:
    """Vega-Lite with all that it needs; the page runs it when it draws a chart."""
    import vl_convert

    made = vl_convert.javascript_bundle("globalThis.vegaEmbed = vegaEmbed;")
    return str(made).replace("</script", "<\\/script")


def _json(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), default=str)
    for character in "<>&":  # as escapes they are the same JSON
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text

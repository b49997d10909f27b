"""A headless Chromium that opens a page and returns what a script finds in it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
# Virtual time runs ahead of the frames in which charts are drawn where the machine has
# more to do than processors; then the page is opened again.
NOT_DRAWN, TRIES = "not drawn in time", 5
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


def browse(
    page: str, script: str, folder: Path, *, at: str = "", size: str = "1400,900"
) -> tuple[dict[str, Any], str]:
    """What ``script`` returns inside the page at an address, and what the console says.

    Time is the browser's virtual one: waiting costs nothing. ``pause(n)`` waits until
    the page has drawn, ``drawn(selector)`` until an element is there; ``all(selector)``
    lists the texts of elements.
    """
    nonce = re.search(r"script-src 'nonce-(\w+)'", page)[1]
    probe = f"""<script nonce="{nonce}">
    window.errors = [];
    addEventListener("error", (e) => errors.push(e.message));
    addEventListener("unhandledrejection", (e) => errors.push(String(e.reason)));
    const pause = (ms = 400) => new Promise((done) => setTimeout(done, ms));
    const drawn = async (s) => {{
      for (let i = 0; i < 40 && !document.querySelector(s); i++) await pause();
      if (!document.querySelector(s)) throw "{NOT_DRAWN}";
      await pause();
    }};
    const all = (s) => [...document.querySelectorAll(s)].map((n) => n.textContent);
    const probe = async () => {{
      let out;
      await pause();
      try {{ out = await (async () => {{ {script} }})(); }}
      catch (why) {{ out = {{ failed: String(why) }}; }}
      const node = document.createElement("pre");
      node.id = "probe";
      node.textContent = JSON.stringify({{ ...out, errors,
        asked: performance.getEntriesByType("resource")
          .map((entry) => entry.name.slice(0, 60))
          .filter((name) => !/^(data|blob):/.test(name)) }});
      document.body.append(node);
    }};
    addEventListener("load", probe);
    </script>"""
    file = folder / "probe.html"
    file.write_text(page.replace("</head>", f"{probe}</head>", 1), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += [f"--window-size={size}", "--dump-dom", "--virtual-time-budget=60000"]
    words += [f"--user-data-dir={folder / 'profile'}", f"{file.as_uri()}{at}"]
    for _ in range(TRIES):
        done = subprocess.run(
            [str(CHROMIUM), *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
        assert found, done.stderr[-2000:]
        out = json.loads(html.unescape(found[1]))
        if out.get("failed") != NOT_DRAWN:
            break
    console = [x for x in done.stderr.splitlines() if "CONSOLE" in x]
    return out, "\n".join(console)

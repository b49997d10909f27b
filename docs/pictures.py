"""Takes the pictures of README.md from a store, with headless Chromium.

Run as `python docs/pictures.py results/measured`.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import tempfile
from pathlib import Path

IMG = Path(__file__).resolve().parent / "img"
ASKED = ("leaderboard", "llm_compression_small", "--task", "wikitext2-1024")
# The same leaderboard on the page.
ADDRESS = "#/board?grid=llm_compression_small&task=wikitext2-1024+limit%3D8"
STYLE = """
body { margin: 0; background: #16181d; color: #d7dae0; }
pre { margin: 18px 22px; font: 15px/1.45 'DejaVu Sans Mono', monospace; }
"""


def main(store: str) -> None:
    """Write docs/img/leaderboard.png and docs/img/report.png."""
    IMG.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = _shrinkgrid(*ASKED, "--store", store)
        page = folder / "leaderboard.html"
        command = html.escape("$ shrinkgrid " + " ".join(ASKED))
        page.write_text(
            f"<meta charset=utf-8><style>{STYLE}</style>"
            f"<pre>{command}\n\n{html.escape(text.rstrip())}</pre>"
        )
        rows = text.count("\n") + 3
        _shoot(page.as_uri(), IMG / "leaderboard.png", 980, rows * 22 + 44)
        _shrinkgrid("report", "--out", str(folder / "report"), "--store", store)
        report = (folder / "report/index.html").as_uri() + ADDRESS
        _shoot(report, IMG / "report.png", 1250, 900)


def _shrinkgrid(*words: str) -> str:
    command = Path(sys.executable).with_name("shrinkgrid")
    return subprocess.run(
        [str(command), *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    ).stdout


def _shoot(address: str, picture: Path, width: int, height: int) -> None:
    subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            "--virtual-time-budget=20000",
            address,
        ],
        check=True,
        capture_output=True,
    )


if __name__ == "__main__":
    main(sys.argv[1])

"""Takes the pictures of README.md from a store, with headless Chromium.

Run as `python docs/pictures.py STORE`; the store should hold language-model methods.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import tempfile
from pathlib import Path

IMG = Path(__file__).resolve().parent / "img"
TASK = ("--model", "smollm2-135m", "--task", "pydoc-512")
STYLE = """
body { margin: 0; background: #16181d; color: #d7dae0; }
pre { margin: 18px 22px; font: 15px/1.45 'DejaVu Sans Mono', monospace; }
"""


def main(store: str) -> None:
    """Write docs/img/leaderboard.png and docs/img/report.png."""
    IMG.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = _shrinkgrid("leaderboard", *TASK, "--store", store)
        page = folder / "leaderboard.html"
        command = html.escape("$ shrinkgrid leaderboard " + " ".join(TASK))
        page.write_text(
            f"<meta charset=utf-8><style>{STYLE}</style>"
            f"<pre>{command}\n\n{html.escape(text.rstrip())}</pre>"
        )
        rows = text.count("\n") + 3
        _shoot(page, IMG / "leaderboard.png", 980, rows * 22 + 44)
        _shrinkgrid("report", "--out", str(folder / "report"), "--store", store)
        _shoot(folder / "report/index.html", IMG / "report.png", 1250, 1000)


def _shrinkgrid(*words: str) -> str:
    command = Path(sys.executable).with_name("shrinkgrid")
    return subprocess.run(
        [str(command), *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "100"},
    ).stdout


def _shoot(page: Path, picture: Path, width: int, height: int) -> None:
    subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
    )


if __name__ == "__main__":
    main(sys.argv[1])

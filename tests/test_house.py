"""The house: docs that cannot rot, the wheel's files, words that must not be there."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Pages of docs/reference that `make docs` writes.
GENERATED = re.findall(r'"([a-z-]+\.md)":', (ROOT / "docs/generate.py").read_text())
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/[!_]*.md")]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())

    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not [t for t in missing if Path(t).name not in GENERATED]


def test_the_readme_names_only_verbs_that_exist():
    from harness.cli import VERBS

    named = set(re.findall(r"shrinkgrid ([a-z-]+)", (ROOT / "README.md").read_text()))
    # Sentences that begin with the project's name are no commands.
    assert {w for w in named if w not in VERBS} <= {"is", "reads"}
    assert {"run", "plan", "leaderboard", "sql", "list"} <= named


@pytest.mark.slow
def test_the_wheel_carries_every_module_view_grid_and_paper(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("shrinkgrid-*.whl"))
    carried = set(zipfile.ZipFile(wheel).namelist())

    wanted = {
        str(path.relative_to(ROOT))
        for package in ("harness", "methods", "tasks", "results")
        for pattern in ("*.py", "*.sql", "*.yaml", "*.html", "*.js", "*.css")
        for path in (ROOT / package).rglob(pattern)
    }
    assert not wanted - carried
    assert not [name for name in carried if name.startswith("tests/")]

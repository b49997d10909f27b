"""The house: pages and files that must agree with the code, and words to avoid."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
# Pages of docs/reference that `make docs` writes.
GENERATED = re.findall(r'"([a-z-]+\.md)":', (ROOT / "docs/generate.py").read_text())
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            page
            for page in ROOT.glob("docs/**/*.md")
            if page.parent.name != "reference" or page.name == "index.md"
        ),
    ]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())

    missing = [t for t in targets if not (page.parent / t).exists()]
    assert not [t for t in missing if Path(t).name not in GENERATED]


def test_the_readme_lists_every_method():
    from harness.registry import discover

    table = (ROOT / "README.md").read_text().split("## Methods")[1].split("\n## ")[0]
    packaged = {
        name
        for name, plugin in discover("method").items()
        if plugin.cls.__module__.startswith("methods.")
    }
    assert set(re.findall(r"`([a-z0-9_]+)`", table)) == packaged


def test_every_page_that_the_code_names_exists():
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.yaml", "*.toml", "*.sh", "Makefile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    named = {
        (file, page)
        for file in files
        if (ROOT / file).is_file()
        for page in re.findall(r"docs/[\w/-]+\.md", (ROOT / file).read_text())
    }

    assert named
    assert not [x for x in sorted(named) if not (ROOT / x[1]).exists()]


def test_no_reader_takes_folders_of_the_path_for_columns():
    calls = [
        (path.name, call)
        for path in (ROOT / "results").rglob("*.py")
        for call in path.read_text().split("read_parquet(")[1:]
    ]
    assert len(calls) >= 7
    assert not [
        name for name, call in calls if "hive_partitioning = false" not in call[:250]
    ]


def test_the_commit_hooks_are_the_commands_of_lint():
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    lint = re.findall(r"\$\(BIN\)/(.+)", recipe)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())

    hooks = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert [entry.removeprefix(".venv/bin/") for entry in hooks] == lint


def test_plain_make_prints_the_targets():
    printed = subprocess.run(
        ["make", "--no-print-directory"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.+)", makefile)[1].split()

    assert set(re.findall(r"^  ([a-z-]+) +\S", printed, re.M)) == set(targets)


@pytest.mark.slow
def test_the_wheel_carries_every_module_view_grid_and_paper(tmp_path):
    # Of a copy: a build writes beside what it builds, where other tests are reading.
    copy = tmp_path / "checkout"
    junk = shutil.ignore_patterns(".*", "__pycache__", "_build", "*.egg-info", "store")
    shutil.copytree(ROOT, copy, ignore=junk)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", tmp_path, copy],
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

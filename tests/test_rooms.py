"""The import contracts of pyproject.toml, and that they notice what they forbid."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "methods", "tasks", "results")


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a tree, in a process that imports this tree's packages."""
    line = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {line}"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    copy = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.yaml", "page")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def test_the_rooms_keep_their_contracts(tree):
    found = lint(tree)

    assert found.returncode == 0, found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("harness/running/driver.py", "import ray", "import Ray"),
        ("harness/scheduling/packing.py", "import ray", "import Ray"),
        ("harness/cli/run.py", "import ray", "import Ray"),
        ("methods/hrank.py", "import methods.taylor", "another method"),
        ("methods/_kernels/masks.py", "import methods.svd", "another method"),
        ("tasks/mnist.py", "import tasks.digits", "another task"),
        ("harness/models/vgg16.py", "import harness.models.mlp", "another model"),
        ("methods/hrank.py", "import harness.running.rows", "a plugin knows only"),
        ("tasks/digits.py", "import results.storage.store", "a plugin knows only"),
        ("harness/toolkit/roles.py", "import harness.planning.plan", "the toolkit"),
        ("harness/planning/plan.py", "import harness.running.driver", "the engine"),
        ("harness/running/driver.py", "import harness.executors.inline", "the engine"),
        ("results/storage/store.py", "import duckdb", "open DuckDB"),
        ("results/text/labels.py", "import results.storage.store", "results: boards"),
        ("results/queries/db.py", "import results.boards.report", "results: boards"),
        ("results/schema.py", "import torch", "neither torch nor ray"),
        ("harness/new_room/one.py", "", "the engine"),  # a room without a place
        ("harness/running/rows.py", "import harness.running.worker", "no circular"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(tree, file, line, contract):
    path = tree / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        found = lint(tree)
    finally:
        if before is None:
            shutil.rmtree(path.parent)
        else:
            path.write_text(before)

    assert found.returncode != 0
    broken = [row for row in found.stdout.splitlines() if row.endswith("BROKEN")]
    report = found.stdout.split("Broken contracts")[1]
    assert contract in report, broken

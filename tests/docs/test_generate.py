"""The generated reference: complete, and nothing in it without a meaning."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import generate  # noqa: E402 (path above)
from _generate import commands, plugins, store  # noqa: E402

from harness.cli import COMMANDS  # noqa: E402
from harness.cli._describe import default_of, described, type_of  # noqa: E402
from harness.options import fields  # noqa: E402
from harness.registry import discover  # noqa: E402
from results.outcomes import ErrorClass, Status  # noqa: E402


@pytest.fixture(scope="module")
def pages():
    return generate.pages()


def test_every_command_is_listed_with_an_example():
    assert set(generate.said("commands")) == set(COMMANDS)


def test_every_option_of_every_command_has_a_help_text():
    lacking = [
        f"{verb} {option.opts[-1]}"
        for verb, command in commands.commands()
        for option in command.params
        if option.param_type_name == "option" and not option.help
    ]
    assert not lacking


def test_a_command_shows_choices_default_and_metavar(pages):
    row = next(x for x in pages["commands.md"].splitlines() if "`--address" in x)
    assert "`--address TEXT`" in row
    formats = next(x for x in pages["commands.md"].splitlines() if "`--format" in x)
    assert "`csv`" in formats
    assert "`table`" in formats


def test_every_command_states_its_exit_status(pages):
    sections = pages["commands.md"].split("\n## ")[2:]

    assert len(sections) == len(COMMANDS)
    assert not [x.splitlines()[0] for x in sections if "xit status" not in x]


def test_every_status_and_error_class_is_listed(pages):
    for one in (*Status, *ErrorClass):
        assert f"| `{one}` |" in pages["outcomes.md"]


# Plugins of the package only: other tests have registered plugins in this process.
OURS = ("methods.", "tasks.", "harness.models.", "harness.toolkit.")


def test_every_option_of_every_plugin_has_a_meaning():
    lacking = [
        f"{kind} {plugin.name}.{name}"
        for kind in plugins.FACTS
        for plugin in discover(kind).values()
        if plugin.cls.__module__.startswith(OURS)
        for name in fields(plugin.cls)
        if not described(plugin.cls).get(name)
    ]
    assert not lacking, "describe these under `Args:` in the class docstring"


def test_every_nested_option_has_a_meaning():
    lacking = [x for x in plugins.undescribed() if " " not in x]
    assert not lacking, "describe these under `Args:` in the class docstring"


def test_every_column_of_every_view_has_a_meaning():
    lacking = store.undescribed(generate.said("store"))
    assert not lacking, "write their meaning into docs/store.yaml"


def test_every_column_that_is_described_exists():
    said = generate.said("store")
    found = store.columns()
    known = {name for named in found.values() for name in named}
    assert set(said["columns"]) <= known
    assert set(said["in"]) <= set(found)


def test_every_variable_that_the_code_reads_is_listed_and_every_listed_one_is_read():
    said = generate.said("environment")
    listed = {
        name
        for heading in said.values()
        for name in heading
        if name.startswith("SHRINKGRID_")
    }
    sources = [
        file
        for folder in ("harness", "methods", "tasks", "results", "deploy")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".sh", ".yaml")
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in sources)
    read = {name.rstrip("_") for name in re.findall(r"SHRINKGRID_[A-Z0-9_]+", text)}
    assert listed == read


def test_types_are_in_words():
    assert type_of(int | None) == "integer or null"
    assert type_of(tuple[str, ...]) == "list of text"


def test_a_default_is_written_as_yaml():
    svd_llm = fields(discover("method")["svd_llm"].cls)
    assert default_of(svd_llm["lora"]) == "null"
    assert default_of(svd_llm["whitening"]) == "eigh"


def test_the_python_page_describes_every_public_name(pages):
    import shrinkgrid

    for name in shrinkgrid.__all__:
        assert f"\n## {name}\n" in pages["python.md"]
    assert "| store | " in pages["python.md"]

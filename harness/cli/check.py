"""`check`: what every method owes, checked on small models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete
from harness.cli._common import changes

if TYPE_CHECKING:
    from harness.contracts.suite import Check
    from harness.registry import Plugin

_BROKEN = 1  # exit status


@click.command()
@click.argument("kind", metavar="KIND", type=click.Choice(["method"]))
@click.argument("name", shell_complete=_complete.plugins)
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="OPTION=VALUE",
    callback=changes,
    help="An option of the method, written as in a grid; may be repeated.",
)
@click.option(
    "--coarse",
    type=click.FloatRange(min=0),
    help="How much farther than its tolerance the achieved ratio may be from the "
    "requested one; for methods that remove whole blocks, of which the small models "
    "have three.",
)
def check(kind: str, name: str, options: dict[str, Any], coarse: float | None) -> int:
    """Check that the method NAME keeps what every method owes.

    KIND is `method`: models and tasks have no such checks. NAME is a name in a grid, a
    module (my_package.my_method), or a file (my_method.py).

    The method compresses small models of each kind that it declares, in about a minute
    without a download: ratio 0 changes nothing, the same seed gives the same network,
    the budget is kept, a saved network loads again, and more. Exit status: 0 if all
    checks passed, 1 if one failed, 2 a user error.
    """
    from harness.contracts.suite import checks_of
    from results.text.counts import counted

    del kind
    failed = total = 0
    for plugin in _plugins(name):
        click.echo(f"method {plugin.name}")
        sample, made = "", True
        for one in checks_of(plugin, options or None, coarse):
            if one.sample != sample:
                sample, made = one.sample, True
                click.echo(f"on a small {sample}")
            if not made:
                continue
            passed = _report(one)
            total += 1
            failed += not passed
            # Without networks there is nothing that the others could look at.
            made = passed or one.name != "leaves_its_inputs_alone"
    click.echo(f"{counted(total, 'check')}: {total - failed} passed, {failed} failed")
    return _BROKEN if failed else 0


def _plugins(name: str) -> list[Plugin]:
    """The methods that a name, a module or a file names."""
    from harness import registry
    from harness.core import BenchError

    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise BenchError(f"the file {path} does not exist")
        found = registry.plugins_of_file(path.resolve())
    elif "/" in name:
        raise BenchError(
            f"{name} is not a Python file: name one that ends in .py, a module with "
            "dots (my_package.my_method), or a method"
        )
    elif "." in name:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        found = registry.plugins_of_module(name)
    else:
        return [registry.find("method", name)]
    methods = [plugin for plugin in found if plugin.kind == "method"]
    if not methods:
        raise BenchError(
            f"{name} defines no method: a class with the decorator "
            "@harness.registry.method; `shrinkgrid new method NAME` writes one"
        )
    return methods


def _report(one: Check) -> bool:
    """Run a check and print its line; whether it passed."""
    import traceback

    from harness.contracts.compressed import BrokenContract
    from results.text.clean import clean

    try:
        one()
    except BrokenContract as why:
        said, advice = str(why), one.advice
    except Exception as why:  # of the method: its line, not ours
        frame = traceback.extract_tb(why.__traceback__)[-1]
        said = f"{type(why).__name__}: {why} ({frame.filename}:{frame.lineno})"
        advice = "the method must treat this sample, or declare other kinds= or needs="
    else:
        click.echo(f"  ok      {one.contract}")
        return True
    click.echo(f"  FAILED  {one.contract}")
    click.echo(f"          found: {clean(said)}")
    click.echo(f"          to do: {advice}")
    return False

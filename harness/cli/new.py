"""`new`: write the file of a new method or task, which works as it is."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

import click

_METHOD = '''"""{title}: say what it does, and where it is from (arXiv:...)."""

from __future__ import annotations

import math

import torch
from torch import nn

from harness.core import Context, Model
from harness.registry import method
from harness.toolkit.roles import LINEARS


@method("{name}", ratio_of="zeros", needs={{"linears"}})
class {cls}:
    """Zero the smallest weights of each matrix, by absolute value.

    Args:
        per_row: Zero the share ``ratio`` of each row, not of the matrix as a whole.
    """

    per_row: bool = False

    def fit(self, model: Model, ctx: Context) -> dict[str, torch.Tensor]:
        """Return what does not depend on the ratio; runs once for all ratios."""
        matrices = model.modules(*LINEARS)
        return {{
            name: module.get_parameter("weight").detach().abs()
            for name, module in matrices
        }}

    def compress(
        self, fitted: dict[str, torch.Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """Return the network at one ratio; ``fitted`` must not change."""
        net = ctx.dense()
        for name, size in fitted.items():
            groups = size if self.per_row else size.reshape(1, -1)
            count = math.ceil(ratio * groups.shape[1])  # never below the ratio
            smallest = groups.argsort(dim=1)[:, :count]
            mask = torch.ones_like(groups).scatter_(1, smallest, 0.0)
            weight = net.get_parameter(f"{{name}}.weight")
            with torch.no_grad():
                weight.mul_(mask.view_as(weight))
        return net
'''

_TASK = '''"""{title}: say what it measures, on which data, by which protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from harness.core import Measurement, Model
from harness.registry import task


@task("{name}", kind="any")
class {cls}:
    """The share of small weights; replace it with what you measure.

    Args:
        threshold: A weight is small if its absolute value is below this.
    """

    threshold: float = 1e-3

    def protocol(self) -> dict[str, Any]:
        """Return what must be equal for two numbers to be comparable."""
        return {{"threshold": self.threshold}}

    def fingerprint(self) -> str:
        """Return a fingerprint of the data; empty because this task reads none."""
        return ""

    @torch.inference_mode()
    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield measurements, the primary metric first."""
        weights = torch.cat([p.flatten() for p in model.net.parameters()])
        share = (weights.abs() < self.threshold).double().mean()
        yield Measurement(
            metric="small_weights", value=share.item(), goal="max", n=len(weights)
        )
'''
_TEMPLATES = {"method": _METHOD, "task": _TASK}


_PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{project}"
version = "0.1.0"
description = "{title}, for shrinkgrid."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["shrinkgrid"]

# What `shrinkgrid` finds wherever this package is installed. The name on the left is
# free; the name in a grid is the one in the decorator.
[project.entry-points."shrinkgrid.{kind}s"]
{name} = "{package}.{name}"
"""
_README = """# {project}

The {kind} `{name}` for shrinkgrid. Install it beside shrinkgrid, and grids find it:

```sh
pip install --editable .
shrinkgrid describe {name}
```

In a grid: `{kind}s: [{name}]`.
"""
_TO_TEST = """
The contracts that every method keeps, and the tests of this repository:

```sh
shrinkgrid check method {package}.{name}
pip install pytest
pytest
```
"""
_TEST_METHOD = '''"""What every method owes, and what this one promises beside it."""

import pytest
from harness.contracts.suite import checks_of


@pytest.mark.parametrize("check", checks_of("{name}"), ids=str)
def test_contract(check):
    check()


# Add tests with an independent expectation: a case that was calculated by hand, a
# second implementation, or a published value with its source.
'''


@click.command()
@click.argument("kind", type=click.Choice(sorted(_TEMPLATES)))
@click.argument("name")
@click.option(
    "--package",
    metavar="PACKAGE",
    help="Write a repository instead: a folder PACKAGE with the package, its metadata "
    "and tests, to publish and install.",
)
def new(kind: str, name: str, package: str | None) -> None:
    """Write the file of a new method or task, which works as it is.

    In a checkout the file goes to methods/ or tasks/. Elsewhere it goes to the current
    folder, and the variable SHRINKGRID_PLUGINS must name it.
    """
    from harness.core import BenchError
    from harness.registry import discover

    _check_name(kind, name)
    if name in discover(kind):
        raise BenchError(f"a {kind} called {name!r} exists already; use another name")
    text = _filled(_TEMPLATES[kind], kind=kind, name=name)
    if package is not None:
        _write_package(kind, name, package, text)
        return
    path = folder(kind) / f"{name}.py"
    _write(path, text)
    click.echo(f"wrote {path}")
    if path.parent == Path.cwd():
        click.echo(f"to use it:  export SHRINKGRID_PLUGINS={path}")
    click.echo(f"its name in a grid is {name!r}")
    if kind == "method":
        click.echo(f"to test it:  shrinkgrid check method {path}")


def _check_name(kind: str, name: str) -> None:
    from harness.core import BenchError

    if keyword.iskeyword(name):
        raise BenchError(f"{name!r} is a word of Python's own: use another name")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise BenchError(
            f"{name!r} is not a valid name for a {kind}: use lower-case letters, "
            "digits and underscores, and begin with a letter"
        )


def _filled(template: str, *, kind: str, name: str, package: str = "") -> str:
    return template.format(
        kind=kind,
        name=name,
        title=name.replace("_", " ").capitalize(),
        cls="".join(part.capitalize() for part in name.split("_")),
        package=package,
        project=package.replace("_", "-"),
    )


def _write_package(kind: str, name: str, package: str, text: str) -> None:
    """Write a repository whose package publishes the plugin by an entry point."""
    from harness.core import BenchError

    _check_name("package", package)
    root = Path.cwd() / package
    if root.exists():
        raise BenchError(f"{root} exists; choose another name")
    if find_spec(package) is not None:
        raise BenchError(
            f"Python finds another module called {package!r} already, and one of the "
            "two would hide the other; choose another name"
        )
    files = {"pyproject.toml": _PYPROJECT, "README.md": _README}
    if kind == "method":
        files["README.md"] += _TO_TEST
        files[f"tests/test_{name}.py"] = _TEST_METHOD
    _write(root / "src" / package / "__init__.py", f'"""{package}."""\n')
    _write(root / "src" / package / f"{name}.py", text)
    for file, template in files.items():
        _write(root / file, _filled(template, kind=kind, name=name, package=package))
    click.echo(f"wrote {root}: README.md says how to install and test it")
    click.echo(f"its name in a grid is {name!r}")


def _write(path: Path, text: str) -> None:
    from harness.core import BenchError

    if path.exists():
        raise BenchError(f"{path} exists; choose another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as why:
        raise BenchError(f"{path} cannot be written: {why.strerror}") from why


def folder(kind: str) -> Path:
    """Return the folder for a plugin: the checkout's package, or the current folder."""
    package = Path.cwd() / f"{kind}s"
    beside = Path.cwd() / "harness" / "registry.py"
    return package if package.is_dir() and beside.is_file() else Path.cwd()


_GRID = """\
# A grid: every method on every model, ratio, task and seed.
#   shrinkgrid plan {file}         what would run, and for how long
#   shrinkgrid run {file}          run what is missing; Ctrl-C and repeat as you like
#   shrinkgrid leaderboard         compare; `shrinkgrid report` writes a page
# `shrinkgrid list methods` (models, tasks) names what there is, and
# `shrinkgrid describe svd` the options of one of them.
name: {name}

# A name, or a mapping with options. A folder or a Hugging Face id of a language model
# is a model too: {{name: EleutherAI/pythia-160m}}.
models:
  - mlp

# The dense model is the reference of every recovery; leave it in.
methods:
  - dense
  - svd
  - {{name: magnitude, finetune: {{epochs: 2}}}}
  # - {{chain: [svd, {{name: round_to_nearest, bits: 8}}]}}   # several in a row

# The share to remove; of what, each method says.
ratios: [0.3, 0.6, 0.9]

tasks:
  - digits

# Two seeds or more: the leaderboard's +- then covers them.
seeds: [0, 1]

# What methods for language models learn from; the default is 64 windows of 512 tokens.
# calibration: {{samples: 32, length: 512}}

# What one trial asks Ray for; the defaults are one processor and no device.
# resources: {{cpus: 1, gpus: 0, time: 1h}}

# Combinations to leave out.
# exclude:
#   - {{method: svd, ratio: 0.9}}
"""


@click.command()
@click.argument(
    "file", type=click.Path(path_type=Path, dir_okay=False), default="grid.yaml"
)
def init(file: Path) -> None:
    """Write a small grid FILE with comments, to run and to change."""
    from harness.core import BenchError

    if file.suffix not in (".yaml", ".yml"):
        raise BenchError(f"{file} is not a YAML file: name it {file.name}.yaml")
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(_GRID.format(file=file, name=file.stem))
    except FileExistsError:
        raise BenchError(f"{file} exists; choose another name") from None
    except OSError as why:
        raise BenchError(f"{file} cannot be written: {why.strerror}") from why
    click.echo(f"wrote {file}; next: shrinkgrid plan {file}")

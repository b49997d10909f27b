"""`new`: the one file that adds a method or a task, ready to be filled in."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import click

_METHOD = '''"""{title}: say what it does, and where it is from (arXiv:...)."""

from __future__ import annotations

import torch
from torch import nn

from harness.core import Context, Model
from harness.registry import method
from harness.toolkit.roles import LINEARS


@method("{name}", ratio_of="zeros", needs={{"linears"}})
class {cls}:
    """Zeroes the share ``ratio`` of each matrix that is smallest in absolute value.

    Args:
        keep_signs: An option: typed, with a default, part of the trial's identity.
    """

    keep_signs: bool = True

    def fit(self, model: Model, ctx: Context) -> dict[str, torch.Tensor]:
        """Everything that does not depend on the ratio; runs once for all ratios."""
        matrices = model.modules(*LINEARS)
        return {{name: module.weight.detach().abs() for name, module in matrices}}

    def compress(
        self, fitted: dict[str, torch.Tensor], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network at one ratio; ``fitted`` is left as it was found."""
        net = ctx.dense()
        for name, size in fitted.items():
            count = int(ratio * size.numel())
            smallest = size.flatten().argsort()[:count]
            weight = net.get_submodule(name).weight
            with torch.no_grad():
                weight.view(-1)[smallest] = 0.0
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
    """The share of weights below a threshold; replace it by what you measure.

    Args:
        threshold: An option: typed, with a default, part of the trial's identity.
    """

    threshold: float = 1e-3

    def protocol(self) -> dict[str, Any]:
        """What must be equal for two numbers to be comparable."""
        return {{"threshold": self.threshold}}

    def fingerprint(self) -> str:
        """Identity of the data; here there is none."""
        return ""

    @torch.inference_mode()
    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Yield the task's headline first."""
        weights = torch.cat([p.flatten() for p in model.net.parameters()])
        share = (weights.abs() < self.threshold).double().mean()
        yield Measurement(
            metric="small_weights", value=share.item(), goal="max", n=len(weights)
        )
'''
_TEMPLATES = {"method": _METHOD, "task": _TASK}


@click.command()
@click.argument("kind", type=click.Choice(sorted(_TEMPLATES)))
@click.argument("name")
def new(kind: str, name: str) -> None:
    """Write the file of a new method or task NAME, working as it stands.

    In a checkout it goes to methods/ or tasks/; elsewhere to this folder, and
    SHRINKGRID_PLUGINS tells shrinkgrid of it.
    """
    from harness.core import BenchError
    from harness.registry import discover

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise BenchError(
            f"{name!r} is no name for a {kind}: lower-case letters, digits and "
            "underscores, a letter first"
        )
    if name in discover(kind):
        raise BenchError(f"there is a {kind} {name!r} already; choose another name")
    path = folder(kind) / f"{name}.py"
    if path.exists():
        raise BenchError(f"{path} exists; choose another name")
    title = name.replace("_", " ").capitalize()
    cls = "".join(part.capitalize() for part in name.split("_"))
    try:
        path.write_text(_TEMPLATES[kind].format(name=name, title=title, cls=cls))
    except OSError as why:
        raise BenchError(f"{path} cannot be written: {why.strerror}") from why
    click.echo(f"wrote {path}")
    if path.parent == Path.cwd():
        click.echo(f"make it known:  export SHRINKGRID_PLUGINS={path}")
    click.echo(f"it is the {kind} {name!r} in a grid, and the contract tests find it")


def folder(kind: str) -> Path:
    """Where a plugin's file belongs: the checkout's package, else this folder."""
    package = Path.cwd() / f"{kind}s"
    beside = Path.cwd() / "harness" / "registry.py"
    return package if package.is_dir() and beside.is_file() else Path.cwd()

"""The table of `plan --cluster`: which methods fit on how many devices."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table

from harness.planning.plan import Plan
from harness.planning.resources import gigabytes
from harness.scheduling.hardware import Cluster
from harness.scheduling.packing import Packer
from harness.scheduling.placing import placed
from harness.scheduling.predictor import Predictor


def placement_table(
    made: Plan, there: Cluster, predictor: Predictor, console: Console
) -> None:
    """Print what each method needs of the devices of a cluster, and for how long.

    Args:
        made: The plan.
        there: A cluster with devices.
        predictor: Predicts bytes and seconds.
        console: Where to print.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model and method", overflow="fold")
    for column in ("peak", "GPUs", "placement", "hours", "to change"):
        table.add_column(column, no_wrap=True)
    found = placed(made.bundles, Packer(cluster=there, predictor=predictor))
    for model, methods in groupby(found, key=lambda one: one.model):
        table.add_row(model)
        for one in methods:
            table.add_row(
                f"  {one.method}",
                gigabytes(one.peak.mid),
                "0" if one.gpus is None else str(one.gpus),
                one.placement,
                f"{one.hours.mid:.2g}",
                one.change,
            )
    if found:
        console.print(table)

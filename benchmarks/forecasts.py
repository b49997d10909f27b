"""Forecast the grids of the papers' tables on H100 GPUs, for `list papers`.

Each grid is planned as a whole, against no store, on the fewest GPUs of one node that
can run it. `--write` keeps the result in `results/papers/forecasts.json`, since to
plan a grid of large models takes seconds, which `list papers` should not. Without a
store these are the default estimates of `plan --cluster`, within a factor of ten.

    python benchmarks/forecasts.py --write
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.planning.configured_plugin import tolerate_unseen
from harness.running import session
from harness.scheduling.forecast import forecast
from harness.scheduling.hardware import parse
from harness.scheduling.predictor import Predictor
from results.tables import published

CLUSTERS = ("H100", "8xH100")
FILE = Path(published.__file__).parents[1] / "papers" / "forecasts.json"


def of_grid(name: str) -> dict[str, Any]:
    """The forecast of a packaged grid.

    Args:
        name: Name of the grid.

    Returns:
        ``gpus`` and ``hours`` of all of them (low, middle, high), or ``why`` there is
        no forecast.
    """
    try:
        with tolerate_unseen():
            plan = session.prepare(name, None).plan
    except BenchError as why:
        return {"why": str(why)}
    for cluster in CLUSTERS:
        try:
            busy = forecast(
                plan,
                parse(cluster if cluster[0].isdigit() else f"1x{cluster}"),
                Predictor.of(None),
            ).busy
        except BenchError as error:
            reason = str(error)
            continue
        ends = (busy.low, busy.mid, busy.high)
        hours = [float(f"{seconds / 3600:.2g}") for seconds in ends]
        return {"gpus": cluster, "hours": hours}
    return {"why": reason}


def main() -> None:
    """Print the forecasts, and write them if told to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    tables = [published.read(name) for name in published.names()]
    names = sorted({grid for table in tables for grid in table.grids})
    lines = [f"{json.dumps(name)}: {json.dumps(of_grid(name))}" for name in names]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    print(text)
    if parser.parse_args().write:
        FILE.write_text(text)


if __name__ == "__main__":
    main()

"""How long a plan takes on a cluster, as a sentence and as numbers."""

from dataclasses import replace

import pytest
from finished import stored

from harness.planning.resources import Resources
from harness.scheduling.forecast import ONE, forecast, sentences
from harness.scheduling.hardware import parse
from harness.scheduling.predictor import Predictor


@pytest.mark.parametrize("asked", ["gpus: 16", "cpus: 99", "device_memory: 200GB"])
def test_what_no_node_can_hold_is_said_and_one_slot_holds_everything(
    asked, plan, tmp_path
):
    made = plan()
    bundles = [replace(b, resources=asks(asked)) for b in made.bundles]
    made = replace(made, bundles=bundles)

    (line,) = sentences(made, parse("16xH100"), Predictor())
    alone = list(sentences(made, ONE, Predictor()))

    assert line.startswith("no forecast: ")
    assert "toy_drop on toy requests" in line
    assert alone[0].endswith("of work for one slot")


def asks(text: str) -> Resources:
    name, _, value = text.partition(": ")
    number = value if name == "device_memory" else int(value)
    return Resources(**{name: number})


def test_a_forecast_fills_the_cluster_and_adds_up(plan, tmp_path):
    made = plan("toy_drop, dense, magnitude")
    predictor = stored(plan(), tmp_path)

    one = forecast(made, ONE, predictor)
    many = forecast(made, parse("4xH100"), predictor)

    assert one.seconds.mid == pytest.approx(one.busy.mid)
    assert many.seconds.mid < one.seconds.mid
    assert many.busy.low <= many.busy.mid <= many.busy.high
    said = "\n".join(sentences(made, parse("4xH100"), predictor))
    assert "on 4xH100: about" in said
    assert "device-hours" in said
    assert "no history for " in said

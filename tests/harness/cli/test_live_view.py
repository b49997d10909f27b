"""What a person sees of a run beside its trials' lines."""

from types import SimpleNamespace

from rich.console import Console

from harness.cli.live_view import View
from harness.core import Measurement
from harness.planning.messages import Event
from harness.running.worker import warning


def trial(method, model="m", task="t"):
    return SimpleNamespace(
        id=f"{method}{model}{task}",
        model=SimpleNamespace(label=model),
        task=SimpleNamespace(label=task),
    )


def test_a_warning_is_printed_once_for_each_model_and_task(capsys):
    view = View(4, Console(width=200))
    ended = Event(what="ended", status="ok", warning="2 of 3 prompts are cut")
    for one in (trial("svd"), trial("dense"), trial("svd", task="u")):
        view.event(None, one, ended)
    view.event(None, trial("x", task="v"), Event(what="ended", status="ok"))

    said = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]

    assert said == [
        "warning: m on t: 2 of 3 prompts are cut",
        "warning: m on u: 2 of 3 prompts are cut",
    ]


def test_cut_prompts_are_a_warning_and_whole_ones_are_none():
    def cut(value):
        return [Measurement(metric="truncated_prompts", value=value, n=6)]

    assert warning(cut(2.0)).startswith("2 of 6 prompts are longer than the model")
    assert warning(cut(0.0)) == ""
    assert warning([Measurement(metric="acc", value=1.0)]) == ""

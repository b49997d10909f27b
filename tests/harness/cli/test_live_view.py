"""What a person sees of a run beside its trials' lines."""

import io
from types import SimpleNamespace

from rich.console import Console

from harness.cli.live_view import View
from harness.core import Measurement
from harness.planning.messages import Event
from harness.running.worker import warning


def trial(method, model="m", task="t", ratio=0.2):
    return SimpleNamespace(
        id=f"{method}{model}{task}",
        method=SimpleNamespace(name=method, label=method),
        ratio=ratio,
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


def test_the_time_left_begins_with_the_forecast_and_follows_the_trials(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("harness.cli.live_view.time.monotonic", lambda: now[0])
    view = View(4, Console(width=200), expected=40.0)
    assert view.left() == 40.0
    now[0] = 30.0  # the forecast said 10 s per trial, and the first took 30 s
    view.event(None, trial("svd"), Event(what="ended", status="ok", seconds=30.0))
    assert view.left() == 60.0
    now[0] = 100.0  # a long trial does not hide the time that is left
    assert "left" in view.pace()
    assert View(4, Console(width=200)).pace() == "waiting for the first result"


def test_a_trial_that_is_tried_again_is_counted_once(capsys):
    view = View(2, Console(width=200))
    for status in ("out_of_memory", "failed"):
        view.event(None, trial("svd"), Event(what="started"))
        assert view.done == 0  # also while it runs again
        view.event(None, trial("svd"), Event(what="ended", status=status))
    view.event(None, trial("dense"), Event(what="ended", status="lost"))

    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["[1/2]", "[1/2]", "[2/2]"]
    assert view.pace() == "finishing"


def test_an_interrupt_is_answered_at_once_with_what_it_waits_for(monkeypatch, capfd):
    now = [0.0]
    monkeypatch.setattr("harness.cli.live_view.time.monotonic", lambda: now[0])
    view = View(4, Console(width=200))
    view.event(None, trial("svd"), Event(what="ended", status="ok", seconds=40.0))
    view.event(None, trial("dense"), Event(what="started"))
    now[0] = 10.0
    view.stopping()
    assert capfd.readouterr().err == (
        "stopping after 1 running trial (about 30.0 s); Ctrl-C again stops now\n"
    )
    now[0] = 50.0  # it takes longer than the others took
    view.stopping()
    assert capfd.readouterr().err == (
        "stopping after 1 running trial; Ctrl-C again stops now\n"
    )


def test_the_best_so_far_is_that_of_each_model_task_and_ratio():
    view = View(9, Console(width=200))
    for method, ratio, value in (
        ("dense", 0.2, 0.99),  # what the others are compared with, and no rival
        ("svd", 0.2, 0.8),
        ("asvd", 0.2, 0.9),
        ("wanda", 0.2, 0.85),
        ("svd", 0.4, 0.7),  # without a rival so far
    ):
        said = f"accuracy {value}"
        ended = Event(what="ended", status="ok", value=value, goal="max", summary=said)
        view.event(None, trial(method, ratio=ratio), ended)
    for method, value in (("svd", 30.0), ("asvd", 20.0)):
        said = f"perplexity {value}"
        ended = Event(what="ended", status="ok", value=value, goal="min", summary=said)
        view.event(None, trial(method, task="u"), ended)
    view.event(None, trial("x"), Event(what="ended", status="failed"))
    guess = Event(what="ended", status="ok", value=1.0, goal="max", at_chance=True)
    view.event(None, trial("guess", ratio=0.2), guess)

    assert [line.plain for line in view._leaders()] == [
        "best of 3 so far asvd  accuracy 0.9  m, t, ratio 0.2",
        "best of 2 so far asvd  perplexity 20.0  m, u, ratio 0.2",
    ]


def test_the_step_of_a_running_trial_is_shown():
    running, other = trial("svd"), trial("gptq")
    view = View(2, Console(width=200), steps=lambda: {running.id: "fitting"})
    for one in (running, other):
        view.event(None, one, Event(what="started", trial=one.id))
    console = Console(width=80, file=io.StringIO())
    console.print(view._render())
    assert console.file.getvalue().count("fitting") == 1

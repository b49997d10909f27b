"""`publish`: numbers of trials for model cards and trackers, without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.cli import _complete
from harness.cli._common import on_store

if TYPE_CHECKING:
    from results.storage.store import Store

# Kind of model -> type of a task on the hub.
_HUB_TASKS = {
    "causal_lm": "text-generation",
    "classifier": "image-classification",
    "seq2seq": "translation",
}


@click.command()
@click.argument(
    "trials",
    nargs=-1,
    required=True,
    metavar="TRIAL...",
    shell_complete=_complete.trials,
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["model-index", "eval-results", "trackio", "wandb"]),
    default="model-index",
    show_default=True,
    help="model-index: front matter of a model card; eval-results: a file "
    ".eval_results/NAME.yaml of a model repository; trackio, wandb: a run for each "
    "trial in the local files of this tracker.",
)
@click.option("--project", help="trackio, wandb: the project of the runs (shrinkgrid).")
@click.option("--dataset", help="eval-results: the benchmark's data set on the hub.")
@click.option("--task-id", help="eval-results: the task in the data set's eval.yaml.")
@click.option("--metric", help="eval-results: a metric; by default the primary one.")
@click.option("--url", help="eval-results: where the numbers can be read.")
@on_store
def publish(  # noqa: PLR0913 - one parameter for each option
    store: Store,
    *,
    trials: tuple[str, ...],
    form: str,
    project: str | None,
    dataset: str | None,
    task_id: str | None,
    metric: str | None,
    url: str | None,
) -> None:
    """Write each TRIAL's numbers for a model card or a tracker.

    TRIAL is the id of a finished trial, or its start. Nothing is sent anywhere: copy
    the text into a model repository, or let the tracker synchronise its files.
    """
    from results import publish as forms
    from results import trackers
    from results.queries.trial_ids import find

    options = {"dataset": dataset, "task-id": task_id, "metric": metric, "url": url}
    _refuse_ignored(
        {"eval-results": options, "trackio or wandb": {"project": project}}, form
    )
    named = dict.fromkeys(find(store, one) for one in trials)  # each once
    if form in trackers.TRACKERS:
        trackers.check_package(form)
        rows = forms.finished(store, list(named), curves=True)
        for where in trackers.write(rows, form, project or "shrinkgrid"):
            click.echo(where)
        return
    rows = forms.finished(store, list(named))
    if form == "model-index":
        click.echo(forms.as_yaml(forms.model_index(rows, hub_task)), nl=False)
        return
    if dataset is None or task_id is None or len(rows) != 1:
        raise click.UsageError(
            "--format eval-results takes one TRIAL, --dataset and --task-id: they say "
            "which benchmark of the hub the number belongs to"
        )
    entries = forms.eval_results(
        rows[0], dataset=dataset, task_id=task_id, metric=metric, url=url
    )
    click.echo(forms.as_yaml(entries), nl=False)


def _refuse_ignored(options: dict[str, dict[str, str | None]], form: str) -> None:
    """Refuse options of other forms than the chosen one."""
    for owner, named in options.items():
        if form in owner.split(" or "):
            continue
        for option, value in named.items():
            if value is not None:
                raise click.UsageError(
                    f"--{option} is for --format {owner}: add that, or leave "
                    f"--{option} out"
                )


def hub_task(name: str) -> str:
    """The type of a task on the hub; ``other`` for tasks of every kind of model."""
    from harness.core import BenchError
    from harness.registry import resolve

    try:
        kind = resolve("task", name)[0].facts["kind"]
    except BenchError:  # a plugin that is not loaded now
        return "other"
    return _HUB_TASKS.get(kind, "other")

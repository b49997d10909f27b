"""`publish`: numbers of trials for model cards, without a network."""

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
    type=click.Choice(["model-index", "eval-results"]),
    default="model-index",
    show_default=True,
    help="model-index: front matter of a model card; eval-results: a file "
    ".eval_results/NAME.yaml of a model repository.",
)
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
    dataset: str | None,
    task_id: str | None,
    metric: str | None,
    url: str | None,
) -> None:
    """Print the numbers of each TRIAL for a model card.

    TRIAL is the id of a finished trial, or its start. Nothing is sent anywhere: copy
    the text into a model repository.
    """
    from results import publish as forms
    from results.queries.trial_ids import find

    named = dict.fromkeys(find(store, one) for one in trials)  # each once
    rows = forms.finished(store, list(named))
    if form == "model-index":
        options = {"dataset": dataset, "task-id": task_id, "metric": metric, "url": url}
        for option, value in options.items():
            if value is not None:
                raise click.UsageError(
                    f"--{option} is for --format eval-results: add that, or leave "
                    f"--{option} out"
                )
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


def hub_task(name: str) -> str:
    """The type of a task on the hub; ``other`` for tasks of every kind of model."""
    from harness.core import BenchError
    from harness.registry import resolve

    try:
        kind = resolve("task", name)[0].facts["kind"]
    except BenchError:  # a plugin that is not loaded now
        return "other"
    return _HUB_TASKS.get(kind, "other")

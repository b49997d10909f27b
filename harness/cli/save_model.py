"""`shrinkgrid save-model`: the network of a trial as files that people can use."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete
from harness.cli._common import store_option
from harness.core import BenchError

if TYPE_CHECKING:
    from harness.planning.plan import Bundle
    from results.storage.store import Store

_FIELDS = (
    "trial, method, method_options, model, model_options, model_revision, task, "
    "task_options, calibration, ratio, seed, dtype, network, fit_seconds, "
    "compress_seconds"
)


@click.command()
@click.argument("trial", shell_complete=_complete.trials)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["shrinkgrid", "hf", "onnx"]),
    default="shrinkgrid",
    show_default=True,
    help="shrinkgrid: a folder that `shrinkgrid.load_model` and grids read; hf: a "
    "folder that transformers opens without this package; onnx: an image classifier as "
    "a graph for onnxruntime.",
)
@store_option
def save_model(trial: str, folder: Path, form: str, store: str) -> None:
    """Write the network of TRIAL into FOLDER.

    TRIAL is the id of a finished trial, or its start.

    A network that `run --keep-models` stored is taken. Otherwise the trial's fit and
    compression run again, with what the store has of calibration and checkpoints.

    FOLDER gets model.safetensors, structure.json, and for language models the
    configuration and the tokenizer. With `--format hf` it is a checkpoint for
    transformers, with `--format onnx` a graph whose logits were compared with those of
    the network; both have a model card.
    """
    from harness.toolkit import hugging_face_form, onnx_form, saved_model
    from results.storage.store import open_store

    shelf = open_store(store)
    row = _row(shelf, trial)
    _check(form, row)
    if folder.is_file():
        raise BenchError(f"{folder} is a file: name a new folder")
    try:  # before the trial is made again, which may take hours
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BenchError(f"{folder} is not empty: name a new folder")
    except OSError as why:
        raise BenchError(f"{folder} cannot be written: {why.strerror}") from why
    model, origin = _kept(row, shelf) or _made_again(row, shelf)
    if form == "onnx":
        gap = onnx_form.write(model, folder, _card(shelf, row, "onnx"))
        file = onnx_form.GRAPH
        click.echo(
            f"{folder}: onnxruntime gives the logits of the network; they differ by "
            f"{gap:.1g} of the largest"
        )
    elif form == "hf":
        file = saved_model.WEIGHTS
        card = _card(shelf, row, "transformers")
        written = hugging_face_form.write(model, origin, folder, card)
        click.echo(_WRITTEN[written.form].format(folder=folder))
        if written.note:
            click.echo(f"{folder}: {written.note}")
    else:
        file = saved_model.WEIGHTS
        saved_model.save(model, origin, folder)
    weights = folder / file
    # safetensors lets only the user who writes a file read it.
    weights.chmod(weights.stat().st_mode | folder.stat().st_mode & 0o444)
    size = weights.stat().st_size
    click.echo(f"{folder}: {size:,} bytes of weights, trial {row['trial']}")


_WRITTEN = {
    "plain": "{folder}: a plain checkpoint; "
    "AutoModelForCausalLM.from_pretrained opens it",
    "fewer blocks": "{folder}: a plain checkpoint with fewer blocks; "
    "AutoModelForCausalLM.from_pretrained opens it",
    "compressed-tensors": "{folder}: a checkpoint in the format of compressed-tensors; "
    "AutoModelForCausalLM.from_pretrained opens it where that package is installed",
    "own layers": "{folder}: a checkpoint with layers of its own; "
    "AutoModelForCausalLM.from_pretrained opens it with trust_remote_code=True",
}


_KINDS = {"hf": "causal_lm", "onnx": "classifier"}
_MODELS = {
    "causal_lm": "a language model; --format hf writes one for transformers",
    "classifier": "a classifier; --format onnx writes one for onnxruntime",
    "seq2seq": "a sequence-to-sequence model; leave --format out",
}


def _check(form: str, row: dict[str, Any]) -> None:
    """Refuse what cannot be written, before hours of fitting."""
    from harness.registry import resolve
    from harness.toolkit import onnx_form

    kind = resolve("model", row["model"])[0].facts["kind"]
    if form in _KINDS and kind != _KINDS[form]:
        raise BenchError(
            f"the model of trial {row['trial']} is {_MODELS.get(kind, kind)}"
        )
    if form == "onnx":
        onnx_form.check_packages()


def _card(store: Store, row: dict[str, Any], library: str) -> str:
    """The model card: what was done to which model, and what was measured of it."""
    from harness.cli.publish import hub_task
    from results import publish
    from results.boards import trial_page
    from results.text.formats import markdown, number

    page = trial_page.trials(store, [row["trial"]])[row["trial"]]
    base = str(row["model"])
    lines = ["---", f"library_name: {library}", "tags: [compression, shrinkgrid]"]
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base):  # a name of the hub, not a folder
        lines.append(f"base_model: {base}")
    achieved = "" if page["achieved"] is None else f", achieved {page['achieved']}"
    rows = publish.finished(store, [row["trial"]])
    lines.append(publish.as_yaml(publish.model_index(rows, hub_task)).rstrip())
    lines += [
        "---",
        "",
        f"# {markdown(page['model'])}, compressed by {markdown(page['method'])}",
        "",
        f"Ratio {page['ratio']} of {page['ratio_of']}{achieved}. "
        f"Trial `{page['trial']}`, seed {page['seed']}.",
        "",
        "| size | dense | compressed |",
        "| --- | ---: | ---: |",
    ]
    for name, (dense, compressed) in page["sizes"].items():
        if compressed is not None:
            before = "" if dense is None else f"{dense:,}"
            lines.append(f"| {name} | {before} | {compressed:,} |")
    lines += ["", f"Measured on {markdown(page['task'])}:", ""]
    lines += ["| metric | value | standard error | n |", "| --- | ---: | ---: | ---: |"]
    for one in page["metrics"]:
        error = "" if one["stderr"] is None else number(one["stderr"])
        count = "" if one["n"] is None else f"{one['n']:,}"
        named, value = markdown(one["metric"]), number(one["value"])
        lines.append(f"| {named} | {value} | {error} | {count} |")
    protocol = json.dumps(page["protocol_fields"], indent=1, ensure_ascii=False)
    lines += ["", "The protocol:", "", "```json", protocol, "```", ""]
    lines.append("The licence is that of the base model.")
    return "\n".join(lines) + "\n"


def _row(store: Store, trial: str) -> dict[str, Any]:
    """The newest finished attempt of the one trial whose id begins so."""
    from results.queries.db import ask

    rows = ask(
        store,
        f"SELECT {_FIELDS} FROM newest WHERE status = 'ok' AND starts_with(trial, ?)",
        [trial],
    ).dicts()
    if len(rows) != 1:
        found = ", ".join(r["trial"] for r in rows[:5])
        more = " ..." if len(rows) > 5 else ""
        raise BenchError(
            f"{len(rows)} finished trials begin with {trial!r}: {found}{more}; write "
            "more of the id"
            if rows
            else f"no finished trial begins with {trial!r}: `shrinkgrid sql 'SELECT "
            "trial, method, ratio FROM newest'` lists them"
        )
    return rows[0]


def _kept(row: dict[str, Any], store: Store) -> tuple[Any, dict[str, Any]] | None:
    """The network that `run --keep-models` stored, with its origin."""
    from harness.running import networks
    from harness.toolkit import saved_model

    folder = networks.find(store, row["network"])
    if folder is None:
        if row["network"]:
            click.echo(
                f"the network that the run kept is not in {store.uri}; it is made again"
            )
        return None
    click.echo("the network that the run kept is taken; nothing is fitted again")
    form = json.loads((folder / saved_model.STRUCTURE).read_bytes())
    return saved_model.load(folder), form["origin"]


def _made_again(row: dict[str, Any], store: Store) -> tuple[Any, dict[str, Any]]:
    """The network of the trial, fitted and compressed again, with its origin."""
    from harness.scheduling.interval import format_duration

    took = format_duration((row["fit_seconds"] or 0) + (row["compress_seconds"] or 0))
    click.echo(
        f"fitting and compressing again, which took {took} in the run; "
        "`run --keep-models` stores networks"
    )
    model, shape = _rebuilt(_bundle(row), store)
    return model, {
        "model": row["model"],
        "options": json.loads(row["model_options"] or "{}"),
        "revision": row["model_revision"],
        "shape": shape,
    }


def _bundle(row: dict[str, Any]) -> Bundle:
    """The bundle of that trial alone, checked to be the same trial still."""
    from harness.planning import grid as grids
    from harness.planning import plan

    def part(kind: str) -> dict[str, Any]:
        return {"name": row[kind], **json.loads(row[f"{kind}_options"] or "{}")}

    block = {
        "name": "save-model",
        "models": [part("model")],
        "methods": [part("method")],
        "tasks": [part("task")],
        "ratios": [row["ratio"]],
        "seeds": [row["seed"]],
        "dtype": row["dtype"],
    }
    if row["calibration"]:
        block["calibration"] = json.loads(row["calibration"])
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "one.yaml"
        path.write_text(json.dumps(block))
        # The stored row becomes a grid of one trial, read by the same code as any grid:
        # if its id is the stored one, nothing that can change the number has changed.
        grid = grids.read(path, locked={})
    for bundle in plan.make(grid).bundles:
        if any(trial.id == row["trial"] for trial in bundle.trials):
            return bundle
    raise BenchError(
        f"trial {row['trial']} cannot be made again: the revision of its model or "
        "data, or the version of its method, has changed since; `shrinkgrid run` its "
        "grid again, and save the new trial"
    )


def _rebuilt(bundle: Bundle, store: Store) -> tuple[Any, dict[str, Any] | None]:
    """The compressed model, and the shape of its training data if it had some."""
    from harness.planning.messages import ArtifactJob, Job
    from harness.running import artifacts
    from harness.running.worker import compressed

    # Artifacts that the store has are used again.
    built = [
        artifacts.produce(ArtifactJob(artifact=artifact, store=store.uri))
        for artifact in bundle.artifacts
    ]
    trial = bundle.trials[-1]
    job = Job(bundle=bundle, attempts={}, store=store.uri, grid="save-model", run="")
    model = compressed(job, built, trial)
    trained = any(artifact.kind == "dense" for artifact in bundle.artifacts)
    return model, artifacts.task_data(trial.task).shape if trained else None

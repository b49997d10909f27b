"""`shrinkgrid save-model`: the network of a trial as files that people can use."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete, _model_card
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
    type=click.Choice(["shrinkgrid", "hf", "gguf", "onnx"]),
    default="shrinkgrid",
    show_default=True,
    help="shrinkgrid: a folder that `shrinkgrid.load_model` and grids read; hf: a "
    "folder that transformers opens without this package; gguf: a language model as a "
    "file for llama.cpp; onnx: an image classifier as a graph for onnxruntime.",
)
@click.option(
    "--merge",
    is_flag=True,
    help="hf, gguf: multiply low-rank factors, shared bases, pivoted rows and rounded "
    "weights out to dense matrices: a plain checkpoint of the original architecture, "
    "with the size of the dense model.",
)
@store_option
def save_model(trial: str, folder: Path, form: str, *, merge: bool, store: str) -> None:
    """Write the network of TRIAL into FOLDER.

    TRIAL is the id of a finished trial, or its start.

    A network that `run --keep-models` stored is taken. Otherwise the trial's fit and
    compression run again, with what the store has of calibration and checkpoints.

    FOLDER gets model.safetensors, structure.json, and for language models the
    configuration and the tokenizer. With `--format hf` it is a checkpoint for
    transformers, with `--format gguf` a file for llama.cpp, with `--format onnx` a
    graph whose logits were compared with those of the network; all have a model card.
    """
    from harness.toolkit import saved_model
    from results.storage.store import open_store

    shelf = open_store(store)
    row = _row(shelf, trial)
    _check(form, row, merge=merge)
    if folder.is_file():
        raise BenchError(f"{folder} is a file: name a new folder")
    try:  # before the trial is made again, which may take hours
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BenchError(f"{folder} is not empty: name a new folder")
    except OSError as why:
        raise BenchError(f"{folder} cannot be written: {why.strerror}") from why
    model, origin = _kept(row, shelf) or _made_again(row, shelf)
    if form == "shrinkgrid":
        saved_model.save(model, origin, folder)
        file = saved_model.WEIGHTS
    else:
        card = _model_card.of_trial(shelf, row, _LIBRARIES[form])
        card += _merged(model, folder) if merge else ""
        write = {"hf": _write_hf, "gguf": _write_gguf, "onnx": _write_onnx}[form]
        file = write(model, origin, folder, card, merge=merge)
    weights = folder / file
    # safetensors lets only the user who writes a file read it.
    weights.chmod(weights.stat().st_mode | folder.stat().st_mode & 0o444)
    size = weights.stat().st_size
    click.echo(f"{folder}: {size:,} bytes of weights, trial {row['trial']}")


_LIBRARIES = {"hf": "transformers", "gguf": "gguf", "onnx": "onnx"}  # of the hub


def _write_onnx(
    model: Any, origin: Any, folder: Path, card: str, *, merge: bool
) -> str:
    from harness.toolkit import onnx_form

    gap = onnx_form.write(model, folder, card)
    click.echo(
        f"{folder}: onnxruntime gives the logits of the network; they differ by "
        f"{gap:.1g} of the largest"
    )
    return onnx_form.GRAPH


def _write_gguf(
    model: Any, origin: Any, folder: Path, card: str, *, merge: bool
) -> str:
    from harness.toolkit import gguf_form

    gap = gguf_form.write(model, origin, folder, card)
    click.echo(
        f"{folder}: not opened to compare its logits, since the package "
        "llama-cpp-python is not installed"
        if gap is None
        else f"{folder}: llama.cpp gives the logits of the network; they differ by "
        f"{gap:.1g} of their norm"
    )
    return gguf_form.FILE


def _write_hf(model: Any, origin: Any, folder: Path, card: str, *, merge: bool) -> str:
    from harness.toolkit import hugging_face_form, saved_model

    written = hugging_face_form.write(model, origin, folder, card, plain=merge)
    click.echo(_WRITTEN[written.form].format(folder=folder))
    if written.note:
        click.echo(f"{folder}: {written.note}")
    return saved_model.WEIGHTS


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


_KINDS = {"hf": "causal_lm", "gguf": "causal_lm", "onnx": "classifier"}
_MODELS = {
    "causal_lm": "a language model; --format hf writes one for transformers",
    "classifier": "a classifier; --format onnx writes one for onnxruntime",
    "seq2seq": "a sequence-to-sequence model; leave --format out",
}


def _check(form: str, row: dict[str, Any], *, merge: bool) -> None:
    """Refuse what cannot be written, before hours of fitting."""
    if merge and form not in ("hf", "gguf"):
        raise click.UsageError(
            "--merge is for --format hf and gguf: add one, or leave --merge out"
        )
    from harness.registry import resolve
    from harness.toolkit import gguf_form, onnx_form

    needs = resolve("method", row["method"])[0].facts["needs"]
    if (merge or form == "gguf") and {"units", "width"} & set(needs):
        raise BenchError(
            f"{row['method']} makes heads, neurons or hidden states fewer, so that its "
            "layers cannot get their dense shape again: take --format hf without "
            "--merge"
        )
    plugin, implied = resolve("model", row["model"])
    kind = plugin.facts["kind"]
    if form in _KINDS and kind != _KINDS[form]:
        raise BenchError(
            f"the model of trial {row['trial']} is {_MODELS.get(kind, kind)}"
        )
    if form == "onnx":
        onnx_form.check_packages()
    if form == "gguf":
        model = plugin.build({**implied, **json.loads(row["model_options"] or "{}")})
        family = getattr(model, "family", None)
        gguf_form.check_family(family() if family else None)


def _merged(model: Any, folder: Path) -> str:
    """Multiply the layers out; a paragraph of the model card that says so."""
    from harness.toolkit import merged, saved_model

    size = saved_model.saved_bytes(model.net)
    found = merged.multiply_out(model)
    if not found.layers:
        click.echo(f"{folder}: no layer to multiply out: all have their dense shape")
        return ""
    whole = saved_model.saved_bytes(model.net)
    click.echo(
        f"{folder}: {found.layers} layers are multiplied out to dense matrices; the "
        f"logits differ from those of the measured network by {found.gap:.1g} of their "
        "norm"
    )
    click.echo(
        f"{folder}: the file has the size of the dense model, {whole:,} bytes instead "
        f"of {size:,}"
    )
    return _model_card.MERGED.format(
        layers=found.layers, gap=found.gap, whole=whole, size=size
    )


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

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny_llm import config, logits
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.cli import cli, save_model
from harness.core import BenchError
from harness.toolkit import saved_model
from results.queries.db import ask
from results.storage.store import open_store


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny model and a tokenizer of one token a letter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {chr(i): i for i in range(33, 127)}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("source") / "model"
    AutoModelForCausalLM.from_config(config("llama")).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    return folder


def invoke(*words):
    return CliRunner().invoke(cli, list(words), catch_exceptions=False)


TASK = {"name": "text_perplexity", "text": "pydoc-test", "window": 32, "limit": 2}


def run(folder, *words, **block):
    """Run a grid; returns its store."""
    path, store = folder / "grid.yaml", folder / "store"
    path.write_text(json.dumps({"ratios": [0.4], **block}))
    where = ["--store", str(store), "--address", "inline", "--quiet"]
    assert invoke("run", str(path), *where, *words).exit_code == 0
    return store


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model):
    """A store with finished trials of a language model."""
    return run(
        tmp_path_factory.mktemp("run"),
        models=[str(model)],
        methods=["dense", "basis_sharing"],
        tasks=[TASK],
        calibration={"samples": 4, "length": 32},
    )


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory, model):
    return run(
        tmp_path_factory.mktemp("kept"),
        "--keep-models",
        models=[str(model)],
        methods=["svd"],
        tasks=[TASK, {**TASK, "window": 16}],
    )


@pytest.fixture
def kept(kept_once, tmp_path):
    """A store with one kept network, which two tasks measured; free to change."""
    return Path(shutil.copytree(kept_once, tmp_path / "store"))


def newest(store, method):
    sql = "SELECT trial, value FROM newest JOIN measurements USING (attempt) "
    sql += "WHERE method = ? AND metric = 'loss'"
    return ask(open_store(str(store)), sql, [method]).dicts()[0]


def test_a_saved_trial_loads_and_measures_the_same_and_generates(ran, tmp_path):
    row = newest(ran, "basis_sharing")
    folder = tmp_path / "saved"
    said = invoke("save-model", row["trial"][:8], str(folder), "--store", str(ran))

    assert said.exit_code == 0
    assert "fitting and compressing again, which took" in said.output
    loaded = saved_model.load(folder)
    from tasks.text_perplexity import TextPerplexity

    task = TextPerplexity(text="pydoc-test", window=32, limit=2)
    losses = {m.metric: m.value for m in task.evaluate(loaded)}
    assert losses["loss"] == row["value"]
    ids = loaded.encode("hello")[None]
    told = loaded.net.generate(ids, max_new_tokens=4, do_sample=False)
    assert told.shape == (1, 9)
    # All who can read the folder can read its weights.
    modes = {path.stat().st_mode & 0o444 for path in (folder, *folder.iterdir())}
    assert len(modes) == 1
    assert not list(folder.glob("*.bin"))
    assert not list(folder.glob("*.pt"))
    again = saved_model.load(folder)
    assert torch.equal(logits(again.net), logits(loaded.net))


def test_what_cannot_be_saved_is_refused(ran, tmp_path):
    row = newest(ran, "basis_sharing")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    with pytest.raises(BenchError, match="not empty"):
        invoke("save-model", row["trial"], str(full), "--store", str(ran))
    with pytest.raises(BenchError, match="no finished trial begins with 'zzz'"):
        invoke("save-model", "zzz", str(tmp_path / "new"), "--store", str(ran))
    with pytest.raises(BenchError, match=r"begin with '': .*; write more of the id"):
        invoke("save-model", "", str(tmp_path / "new"), "--store", str(ran))
    with pytest.raises(BenchError, match=r"mine.txt is a file: name a new folder"):
        invoke("save-model", row["trial"], str(full / "mine.txt"), "--store", str(ran))


def test_a_form_of_other_models_is_refused_before_the_fit(ran, tmp_path):
    trial = newest(ran, "basis_sharing")["trial"]
    words = ["save-model", trial, str(tmp_path / "new"), "--store", str(ran)]

    with pytest.raises(BenchError, match="a language model; --format hf writes one"):
        invoke(*words, "--format", "onnx")

    assert not (tmp_path / "new").exists()


def test_a_trial_whose_model_has_changed_is_refused(ran, model, tmp_path):
    row = newest(ran, "basis_sharing")
    path = model / "config.json"
    before = path.read_text()
    path.write_text(before.replace("1e-06", "1e-05"))
    try:
        with pytest.raises(BenchError, match="cannot be made again: the revision"):
            invoke(
                "save-model", row["trial"], str(tmp_path / "new"), "--store", str(ran)
            )
    finally:
        path.write_text(before)


def test_the_hugging_face_form_has_a_card_and_opens(ran, tmp_path):
    trial = newest(ran, "basis_sharing")["trial"]
    folder = tmp_path / "hf"

    done = invoke(
        "save-model", trial, str(folder), "--format", "hf", "--store", str(ran)
    )

    assert done.exit_code == 0
    assert "opens it with trust_remote_code=True" in done.output
    card = (folder / "README.md").read_text()
    assert "compressed by basis" in card
    assert f"Trial `{trial}`" in card
    assert "| loss | " in card
    assert '"window": 32' in card
    net = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert sum(p.numel() for p in net.parameters()) > 0
    assert (folder / "tokenizer.json").is_file()


def test_a_dense_trial_becomes_a_plain_checkpoint(ran, tmp_path):
    trial = newest(ran, "dense")["trial"]
    folder = tmp_path / "hf"

    done = invoke(
        "save-model", trial, str(folder), "--format", "hf", "--store", str(ran)
    )

    assert done.exit_code == 0
    assert "a plain checkpoint;" in done.output
    # The dense network again: nothing but torch and transformers is needed.
    assert not (folder / "modeling_compressed.py").exists()
    net = AutoModelForCausalLM.from_pretrained(folder)
    assert not net.training


def test_merged_layers_are_a_plain_checkpoint_of_the_dense_size(ran, model, tmp_path):
    trial = newest(ran, "basis_sharing")["trial"]
    words = ["save-model", trial, "--format", "hf", "--store", str(ran)]

    factored = invoke(*words, str(tmp_path / "factored"))
    done = invoke(*words, "--merge", str(tmp_path / "hf"))

    assert (factored.exit_code, done.exit_code) == (0, 0)
    assert "21 layers are multiplied out to dense matrices; the logits" in done.output
    assert "the file has the size of the dense model, " in done.output
    assert "a plain checkpoint; AutoModelForCausalLM" in done.output
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "The 21 compressed layers were multiplied out to dense matrices" in card
    assert "trust_remote_code" not in card
    source = (model / "model.safetensors").stat().st_size
    assert abs((tmp_path / "hf" / "model.safetensors").stat().st_size - source) < 200
    opened, own = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, trust_remote_code=trust)
        for name, trust in (("hf", False), ("factored", True))
    )
    torch.testing.assert_close(logits(opened), logits(own), rtol=1e-4, atol=1e-5)


def test_nothing_to_merge_is_said(ran, tmp_path):
    trial = newest(ran, "dense")["trial"]
    words = ["save-model", trial, str(tmp_path / "hf"), "--store", str(ran)]

    done = invoke(*words, "--format", "hf", "--merge")

    assert done.exit_code == 0
    assert "no layer to multiply out: all have their dense shape" in done.output
    assert "Multiplied out" not in (tmp_path / "hf" / "README.md").read_text()


def test_what_cannot_be_merged_is_refused_before_the_fit(ran, tmp_path):
    row = {"method": "flap", "model": "smollm2-135m", "trial": "0123"}
    with pytest.raises(BenchError, match="flap makes heads, neurons or hidden states"):
        save_model._check("hf", row, merge=True)
    trial = newest(ran, "dense")["trial"]
    words = ["save-model", trial, str(tmp_path / "new"), "--store", str(ran), "--merge"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "--merge is for --format hf and gguf: add one, or leave" in done.output
    assert not (tmp_path / "new").exists()


def networks(store):
    return sorted(p.name for p in (store / "artifacts").glob("network-*"))


def test_a_kept_network_is_taken_and_nothing_is_fitted_again(
    kept, tmp_path, monkeypatch
):
    from tasks.text_perplexity import TextPerplexity

    sql = "SELECT trial, value, network, task_options, seconds FROM newest "
    sql += "JOIN measurements USING (attempt) WHERE metric = 'loss'"
    rows = ask(open_store(str(kept)), sql).dicts()
    (name,) = networks(kept)
    assert [row["network"] for row in rows] == [name, name]  # two tasks, one network
    row = next(r for r in rows if json.loads(r["task_options"])["window"] == 32)

    def fitted(*_):
        raise AssertionError("fitted again")

    monkeypatch.setattr("harness.cli.save_model._rebuilt", fitted)
    folder = tmp_path / "saved"
    said = invoke("save-model", row["trial"], str(folder), "--store", str(kept))

    assert "the network that the run kept is taken" in said.output
    loaded = saved_model.load(folder)
    task = TextPerplexity(text="pydoc-test", window=32, limit=2)
    assert (
        next(m.value for m in task.evaluate(loaded) if m.metric == "loss")
        == (row["value"])
    )
    hf = tmp_path / "hf"
    invoke("save-model", row["trial"], str(hf), "--format", "hf", "--store", str(kept))
    opened = AutoModelForCausalLM.from_pretrained(hf, trust_remote_code=True)
    torch.testing.assert_close(logits(opened), logits(loaded.net))


def test_a_kept_network_that_is_gone_is_made_again(kept, tmp_path):
    (name,) = networks(kept)
    shutil.rmtree(kept / "artifacts" / name)
    trial = ask(open_store(str(kept)), "SELECT trial FROM newest").rows[0][0]

    said = invoke("save-model", trial, str(tmp_path / "new"), "--store", str(kept))

    assert f"the run kept is not in {kept}; it is made again" in said.output
    assert (tmp_path / "new" / saved_model.WEIGHTS).is_file()


def test_gc_deletes_networks_that_no_number_needs(kept):
    from results.storage import artifacts as shelf

    (needed,) = networks(kept)
    for key in ("network-of-a-failed-attempt", "calibration-of-something"):
        with shelf.make(open_store(str(kept)), key) as folder:
            (folder / "file").write_text("x")

    invoke("gc", "--apply", "--store", str(kept))
    assert networks(kept) == [needed]
    assert (kept / "artifacts" / "calibration-of-something").is_dir()
    invoke("gc", "--artifacts", "--apply", "--store", str(kept))
    assert [p.name for p in (kept / "artifacts").iterdir()] == [needed]
    invoke("gc", "--models", "--apply", "--store", str(kept))
    assert networks(kept) == []


@pytest.mark.slow
def test_a_classifier_becomes_a_graph_with_a_card(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    store = run(
        tmp_path,
        "--keep-models",
        models=[{"name": "mlp", "recipe": {"epochs": 1}}],
        methods=["magnitude"],
        tasks=[{"name": "digits", "limit": 100}],
    )
    trial = ask(open_store(str(store)), "SELECT trial FROM newest").rows[0][0]
    folder = tmp_path / "graph"

    done = invoke(
        "save-model", trial, str(folder), "--format", "onnx", "--store", str(store)
    )

    assert "the network that the run kept is taken" in done.output
    assert "onnxruntime gives the logits of the network" in done.output
    card = (folder / "README.md").read_text()
    assert "library_name: onnx" in card
    assert "| accuracy | " in card
    (given,) = onnxruntime.InferenceSession(folder / "model.onnx").get_inputs()
    assert (given.name, given.shape[1:]) == ("images", [1, 8, 8])

import json

import pytest
import torch
from click.testing import CliRunner
from tiny_llm import config, logits
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.cli import cli
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


@pytest.fixture(scope="module")
def ran(tmp_path_factory, model):
    """A store with finished trials of one classifier and one language model."""
    folder = tmp_path_factory.mktemp("run")
    path, store = folder / "grid.yaml", folder / "store"
    task = {"name": "text_perplexity", "text": "pydoc-test", "window": 32, "limit": 2}
    block = {
        "models": [str(model)],
        "methods": ["dense", "basis_sharing"],
        "ratios": [0.4],
        "tasks": [task],
        "calibration": {"samples": 4, "length": 32},
    }
    path.write_text(json.dumps(block))
    where = ["--store", str(store), "--address", "inline", "--quiet"]
    assert invoke("run", str(path), *where).exit_code == 0
    return store


def newest(store, method):
    sql = "SELECT trial, value FROM newest JOIN measurements USING (attempt) "
    sql += "WHERE method = ? AND metric = 'loss'"
    return ask(open_store(str(store)), sql, [method]).dicts()[0]


def test_a_saved_trial_loads_and_measures_the_same_and_generates(ran, tmp_path):
    row = newest(ran, "basis_sharing")
    folder = tmp_path / "saved"
    said = invoke("save-model", row["trial"][:8], str(folder), "--store", str(ran))

    assert said.exit_code == 0
    loaded = saved_model.load(folder)
    from tasks.text_perplexity import TextPerplexity

    task = TextPerplexity(text="pydoc-test", window=32, limit=2)
    losses = {m.metric: m.value for m in task.evaluate(loaded)}
    assert losses["loss"] == row["value"]
    ids = loaded.encode("hello")[None]
    told = loaded.net.generate(ids, max_new_tokens=4, do_sample=False)
    assert told.shape == (1, 9)
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
    with pytest.raises(BenchError, match="finished trials begin with ''"):
        invoke("save-model", "", str(tmp_path / "new"), "--store", str(ran))


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

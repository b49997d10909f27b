"""One input under two names is an error of the grid, and two inputs are not."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_llm import config

from harness.core import BenchError
from harness.planning import grid as grids

WORDS = "words of a text that is long enough\n"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A text and a model folder, each of them also as a link and as a copy."""
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(WORDS)
    Path("b.txt").write_text(f"{WORDS}b")
    AutoModelForCausalLM.from_config(config("llama")).save_pretrained("model")
    for name in ("a.txt", "model"):
        Path(f"link-{name}").symlink_to(name)
    shutil.copy("a.txt", "copy-a.txt")
    shutil.copytree("model", "copy-model")
    os.link("a.txt", "hard-a.txt")
    return tmp_path


def read(**keys):
    whole = {"models": ["./model"], "methods": ["svd_llm"], "ratios": [0.5]}
    whole |= {"tasks": [perplexity("b.txt")], "calibration": {"text": "pydoc"}} | keys
    Path("grid.yaml").write_text(json.dumps(whole))
    return grids.read(Path("grid.yaml"))


def perplexity(text, **options):
    return {"name": "text_perplexity", "text": str(text), "window": 8} | options


def other_names(name, folder):
    return (folder / name, f"./{name}", f"link-{name}", f"copy-{name}")


def test_a_text_under_another_name_is_refused(files):
    for other in (*other_names("a.txt", files), "hard-a.txt"):
        with pytest.raises(BenchError, match="same content") as why:
            read(tasks=[perplexity("a.txt"), perplexity(other)])
        assert f"text={other}" in str(why.value)


def test_a_model_folder_under_another_name_is_refused(files):
    for other in ("./link-model", files / "model", "copy-model"):
        with pytest.raises(BenchError, match=r"models './model' and .* same content"):
            read(models=["./model", str(other)])


def test_a_parallel_text_under_another_name_is_refused():
    pair = {"name": "parallel_text", "target": "b.txt"}
    with pytest.raises(BenchError, match="same content"):
        read(tasks=[pair | {"source": name} for name in ("a.txt", "link-a.txt")])


def test_a_calibration_text_that_blocks_call_differently_is_refused(files):
    blocks = [{"calibration": {"text": name}} for name in ("a.txt", "./a.txt")]
    with pytest.raises(BenchError, match=r"texts 'a.txt' and './a.txt' have the same"):
        read(blocks=blocks)


def test_what_differs_in_more_than_its_name_is_not_refused():
    tasks = [perplexity("a.txt"), perplexity("b.txt"), perplexity("a.txt", limit=1)]
    blocks = [
        {"calibration": {"text": "a.txt"}, "tasks": tasks[1:2]},
        {"calibration": {"text": "a.txt", "samples": 2}, "tasks": tasks[1:2]},
        {"tasks": tasks, "models": ["./model"]},
    ]

    assert len(list(read(blocks=blocks).points())) == 5


def test_a_name_that_is_written_twice_is_one_input():
    grid = read(tasks=[perplexity("a.txt")] * 2, models=["./model"] * 2)

    assert len(list(grid.points())) == 1

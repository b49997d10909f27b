"""Our numbers against those of lm-eval's own command line, on real data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch

from harness.core import Context
from harness.registry import resolve
from harness.toolkit import saved_model

TASKS = ("arc_easy", "piqa", "openbookqa", "winogrande")
LIMIT = 4

pytestmark = [
    pytest.mark.slow,
    # The real model is loaded from a conversion that warns on stderr only.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def offline(shared_data, monkeypatch):
    folder = shared_data / "hf_datasets"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def command_line(folder: Path, out: Path) -> dict:
    """The results of ``lm_eval`` on a saved model."""
    words = [sys.executable, "-m", "lm_eval", "--model", "hf"]
    words += ["--model_args", f"pretrained={folder}", "--tasks", ",".join(TASKS)]
    words += ["--limit", str(LIMIT), "--batch_size", "8", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*words, "--output_path", str(out)], check=True, env=environment, timeout=280
    )
    (path,) = out.rglob("results_*.json")
    return json.loads(path.read_text())["results"]


def ours(model) -> dict:
    """The same metrics, measured in memory."""
    found = {}
    for name in TASKS:
        plugin, implied = resolve("task", name)
        task = plugin.build({**implied, "limit": LIMIT})
        found[name] = {m.metric: m for m in task.evaluate(model)}
    return found


@pytest.mark.parametrize("method", ["dense", "magnitude"])
def test_numbers_equal_those_of_the_lm_eval_command_line(method, tmp_path, offline):
    torch.set_num_threads(1)
    try:
        model = resolve("model", "smollm2-135m")[0].build({}).load()
    except Exception as why:  # the package is optional
        pytest.skip(str(why))
    if method != "dense":
        ctx = Context(model=model, seed=0, device=torch.device("cpu"))
        net = resolve("method", method)[0].build({}).compress(None, 0.3, ctx)
        origin = {"model": "smollm2-135m", "options": {}, "shape": None}
        saved_model.save(model.with_net(net), origin, tmp_path / "saved")
        model = saved_model.load(tmp_path / "saved")
    else:
        model.net.save_pretrained(tmp_path / "saved")
        model.tokenizer.save_pretrained(tmp_path / "saved")

    measured = ours(model)
    theirs = command_line(tmp_path / "saved", tmp_path / "out")

    for name in TASKS:
        for metric, one in measured[name].items():
            assert one.value == theirs[name][f"{metric},none"], (name, metric)
            assert one.stderr == theirs[name][f"{metric}_stderr,none"], (name, metric)
            assert one.n == LIMIT == len(one.values)
        shared = {k for k in theirs[name] if k.endswith(",none") and "_stderr" not in k}
        assert shared == {f"{metric},none" for metric in measured[name]}

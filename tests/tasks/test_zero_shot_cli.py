"""Our numbers against those of lm-eval's own command line, on real data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from tiny_llm import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.core import Context
from harness.models import _language
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


def command_line(folder: Path, out: Path, *more: str, model: str = "") -> dict:
    """The results of ``lm_eval`` on a saved model."""
    words = [sys.executable, "-m", "lm_eval", "--model", "hf"]
    words += ["--model_args", f"pretrained={folder}{model}", *more]
    words += ["--batch_size", "8", "--device", "cpu"]
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
    # One task a call: lm-eval sorts the requests of all tasks of a call together, so
    # that they share other batches, and the last digits differ.
    theirs = {}
    for name in TASKS:
        more = ("--tasks", name, "--limit", str(LIMIT))
        theirs |= command_line(tmp_path / "saved", tmp_path / f"out_{name}", *more)

    for name in TASKS:
        assert measured[name].pop("truncated_prompts").value == 0
        for metric, one in measured[name].items():
            assert one.value == theirs[name][f"{metric},none"], (name, metric)
            assert one.stderr == theirs[name][f"{metric}_stderr,none"], (name, metric)
            assert one.n == LIMIT == len(one.values)
        shared = {k for k in theirs[name] if k.endswith(",none") and "_stderr" not in k}
        assert shared == {f"{metric},none" for metric in measured[name]}


TASK = """
task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: ["ab", "c", "de"]
doc_to_target: 0
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 1}}
"""


@pytest.mark.parametrize(
    ("option", "model", "more"),
    [
        ({"add_bos": True}, ",add_bos_token=True", []),
        ({"add_bos": False}, ",add_bos_token=False", []),
        ({"num_fewshot": 2}, "", ["--num_fewshot", "2"]),
        (
            {"apply_chat_template": True, "system_instruction": "abc"},
            "",
            ["--apply_chat_template", "--system_instruction", "abc"],
        ),
    ],
)
def test_each_option_does_what_the_command_line_does(option, model, more, tmp_path):
    tokenizer = letters()
    net = tiny("llama", vocab_size=len(tokenizer), max_position_embeddings=40).net
    net.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    texts = ["abc" * n for n in (1, 3, 7, 9, 20)]  # the last ones are cut
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "words.yaml").write_text(TASK.format(data=data))
    plugin, implied = resolve("task", str(tmp_path / "words.yaml"))
    wrapped = _language.wrap("tiny", net, tokenizer)

    ours = {m.metric: m for m in plugin.build(implied | option).evaluate(wrapped)}
    words = ["--tasks", "words", "--include_path", str(tmp_path), *more]
    theirs = command_line(tmp_path / "saved", tmp_path / "out", *words, model=model)

    assert ours["truncated_prompts"].value > 0
    for metric in ("acc", "acc_norm"):
        assert ours[metric].value == theirs["words"][f"{metric},none"]
        assert ours[metric].stderr == theirs["words"][f"{metric}_stderr,none"]


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer with a begin token that it does not add, and a chat template."""
    words = {w: i for i, w in enumerate(["</s>", "<s>", "?", *"abcdefgh "])}
    made = Tokenizer(models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="?",
        chat_template="{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}",
    )

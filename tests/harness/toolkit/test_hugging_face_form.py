"""Folders for transformers, opened by a process that does not have this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_llm import context, logits, tiny
from transformers import PreTrainedTokenizerFast

from harness.core import BenchError, Model
from harness.registry import find
from harness.toolkit import hugging_face_form, saved_model

# Method, its options, ratio, family, and the form that its network gets. A second word
# tells cases of one method apart.
CASES = {
    "magnitude": ({}, 0.5, "llama", "plain"),
    "wanda": ({}, 0.5, "opt", "plain"),
    "shortgpt": ({}, 0.3, "qwen2", "fewer blocks"),
    "svd": ({}, 0.3, "gpt2", "own layers"),
    "basis_sharing": ({}, 0.3, "llama", "own layers"),
    "joint_rank_k": ({}, 0.3, "mistral", "own layers"),
    "water_filling": ({}, 0.3, "llama", "own layers"),
    "flap": ({}, 0.3, "llama", "own layers"),
    "modegpt": ({}, 0.3, "llama", "own layers"),
    "slicegpt": ({}, 0.3, "llama", "own layers"),
    "awq": ({"bits": 4, "group_size": 8}, 0.875, "llama", "own layers"),
    "gptq": (
        {"bits": 4, "group_size": 8, "act_order": True},
        0.875,
        "llama",
        "own layers",
    ),
    "round_to_nearest": ({"bits": 8}, 0.75, "gpt2", "own layers"),
    "round_to_nearest 8 bits": ({"bits": 8}, 0.75, "opt", "compressed-tensors"),
    "round_to_nearest 4 bits": (
        {"bits": 4, "group_size": 8, "symmetric": False},
        0.875,
        "llama",
        "compressed-tensors",
    ),
    "gptq static groups": (
        {"bits": 4, "group_size": 8, "act_order": True, "static_groups": True},
        0.875,
        "qwen2",
        "compressed-tensors",
    ),
    "chain": (
        {"chain": ["basis_sharing", {"name": "round_to_nearest", "bits": 8}]},
        0.3,
        "llama",
        "own layers",
    ),
    "magnitude experts": ({}, 0.5, "qwen3_moe", "plain"),
    "shortgpt experts": ({}, 0.3, "qwen3_moe", "fewer blocks"),
    "svd experts": ({}, 0.3, "qwen3_moe", "own layers"),
    "gptq experts": ({"bits": 4, "group_size": 8}, 0.875, "qwen3_moe", "own layers"),
}
# `-S` leaves out the path files by which an installation adds this project.
OPEN = """
import importlib.util, json, sys
sys.path += json.loads(sys.argv[1])
assert importlib.util.find_spec("harness") is None
assert importlib.util.find_spec("methods") is None
import torch
from transformers import AutoModelForCausalLM
found = {}
for folder, trusted in json.loads(sys.argv[2]).items():
    net = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trusted)
    ids = torch.arange(16).mul(7).remainder(256)[None]
    with torch.inference_mode():
        out = net(input_ids=ids, use_cache=False).logits
        said = net.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    torch.save({"logits": out, "said": said}, folder + "/answer.pt")
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """For each case the network, its form, its folder, and what the process found."""
    nets, forms, folders = {}, {}, {}
    for name, (options, asked, family, _) in CASES.items():
        model = tiny(family)
        ctx = context(model, tmp_path_factory.mktemp("calibration"))
        method = find("method", name.split()[0]).build(options)
        fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
        fixed = method.ratios() if hasattr(method, "ratios") else None
        net = method.compress(fitted, (fixed or [asked])[0], ctx).eval()
        source = tmp_path_factory.mktemp("source")
        model.net.config.save_pretrained(source)
        origin = {"model": str(source), "options": {}, "revision": "", "shape": None}
        folder = tmp_path_factory.mktemp(name)
        written = hugging_face_form.write(
            model.with_net(net), origin, folder, "# A card\n"
        )
        forms[name] = written.form
        nets[name], folders[name] = net, folder
    packages = [str(Path(torch.__file__).parents[1])]
    wanted = {str(folders[n]): forms[n] == "own layers" for n in CASES}
    words = [json.dumps(packages), json.dumps(wanted)]
    home = tmp_path_factory.mktemp("home")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", OPEN, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={"HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return nets, forms, folders


@pytest.mark.parametrize("name", CASES)
def test_the_folder_has_the_logits_and_the_words_of_the_network(opened, name):
    nets, forms, folders = opened
    answer = torch.load(folders[name] / "answer.pt")

    assert forms[name] == CASES[name][3]
    # Another process, the same operations; threads may sum in another order.
    torch.testing.assert_close(answer["logits"], logits(nets[name]))
    ids = torch.arange(16).mul(7).remainder(256)[None]
    with torch.inference_mode():
        said = nets[name].generate(
            ids, max_new_tokens=8, do_sample=False, pad_token_id=0
        )
    assert answer["said"].tolist() == said.tolist()


@pytest.mark.parametrize(
    "name",
    [n for n, case in CASES.items() if case[3] != "compressed-tensors"],
)
def test_the_file_is_as_small_as_the_network(opened, name):
    nets, forms, folders = opened
    size = (folders[name] / "model.safetensors").stat().st_size

    counted = saved_model.saved_bytes(nets[name])
    if forms[name] == "own layers":
        assert size == counted
    else:  # the writer of transformers adds a line to the header
        assert counted <= size <= counted + 200


def test_the_configuration_of_fewer_blocks_is_true(opened):
    _, _, folders = opened
    config = json.loads((folders["shortgpt"] / "config.json").read_text())

    assert config["num_hidden_layers"] == 2
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert "auto_map" not in config
    assert not (folders["shortgpt"] / hugging_face_form.MODELING).exists()


def test_the_card_says_how_to_load_and_what_the_code_is(opened):
    import hashlib

    _, _, folders = opened
    plain = (folders["magnitude"] / "README.md").read_text()
    own = (folders["svd"] / "README.md").read_text()

    assert plain.startswith("# A card\n")
    assert 'from_pretrained(".")' in plain
    assert "trust_remote_code" not in plain
    assert 'from_pretrained(".", trust_remote_code=True)' in own
    code = (folders["svd"] / hugging_face_form.MODELING).read_bytes()
    assert hashlib.sha256(code).hexdigest() in own


def test_the_code_has_the_layers_of_the_network_and_no_other(opened):
    _, _, folders = opened
    svd = (folders["svd"] / hugging_face_form.MODELING).read_text()
    gptq = (folders["gptq"] / hugging_face_form.MODELING).read_text()

    assert "class LowRank" in svd
    assert "class Rounded" not in svd
    assert "class Rounded" in gptq
    assert "class LowRank" not in gptq
    for code in (svd, gptq):
        assert "harness" not in code
        assert "methods" not in code.replace("from methods", "methods")
        compile(code, "modeling.py", "exec")


def test_a_classifier_is_refused(tmp_path):
    model = Model(
        name="mlp", net=torch.nn.Linear(2, 2), kind="classifier", roles={}, example=dict
    )

    with pytest.raises(BenchError, match="is for causal language models"):
        hugging_face_form.write(model, {}, tmp_path, "")


def test_a_tokenizer_goes_with_the_model(tmp_path):
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    model = tiny("llama")
    fields = {f: getattr(model, f) for f in model.__slots__}
    fields["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=backend)

    hugging_face_form.write(type(model)(**fields), {}, tmp_path, "")

    assert (tmp_path / "tokenizer.json").is_file()

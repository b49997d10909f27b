import json

import pytest
import torch
from tiny_llm import config, logits
from tokenizers import Regex, Tokenizer, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.core import BenchError
from harness.models.huggingface import HuggingFace
from harness.registry import resolve


@pytest.fixture
def folder(tmp_path):
    """A tiny model with a tokenizer of one token a letter, as users keep them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {chr(i): i for i in range(97, 123)} | {"?": 0}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config("llama")).save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    return tmp_path


def family(name):
    plugin, implied = resolve("model", str(name))
    return plugin.build(implied)


def test_a_folder_is_a_model_by_its_path(folder):
    model = family(folder).load()

    assert model.kind == "causal_lm"
    assert model.encode("abc").tolist() == [97, 98, 99]
    assert model.role("model.layers.2.mlp.down_proj") == "down"
    assert model.max_length == 64
    assert torch.isfinite(model.net(**model.example()).logits).all()


def test_the_revision_of_a_folder_changes_with_its_weights(folder):
    before = family(folder).revision()
    assert family(folder).revision() == before
    torch.manual_seed(2)
    changed = config("llama", intermediate_size=48)
    AutoModelForCausalLM.from_config(changed).save_pretrained(folder)
    assert family(folder).revision() != before


def test_a_hub_name_is_claimed_with_its_commit():
    assert HuggingFace.claim("org/model-7b") == {"id": "org/model-7b"}
    pinned = {"id": "org/model", "commit": "a" * 40}
    assert HuggingFace.claim(f"org/model@{'a' * 40}") == pinned
    assert HuggingFace(**pinned).revision() == "a" * 40
    assert HuggingFace.claim("smollm") is None


def test_remote_code_needs_a_commit():
    with pytest.raises(ValueError, match="full commit"):
        HuggingFace(id="org/model", trust_remote_code=True)
    assert HuggingFace(id="org/model", trust_remote_code=True, commit="b" * 40)


def test_a_model_that_cannot_be_had_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BenchError, match=r"org/none.*shrinkgrid prepare"):
        family("org/none").revision()


def test_an_encoder_is_refused(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(BenchError, match="causal language model"):
        family(folder).load()


def test_a_network_without_known_roles_is_refused(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({"model_type": "mamba", "vocab_size": 32}))
    from transformers.models.mamba import MambaConfig

    tiny = MambaConfig(vocab_size=32, hidden_size=8, num_hidden_layers=1)
    AutoModelForCausalLM.from_config(tiny).save_pretrained(folder)
    with pytest.raises(BenchError, match="no matrix whose role is known"):
        family(folder).load()


def test_a_saved_network_loads_without_the_original(folder, tmp_path_factory):
    from harness.toolkit import saved_model

    model = family(folder).load()
    saved = tmp_path_factory.mktemp("saved")
    origin = {"model": str(folder), "options": {}, "revision": "", "shape": None}
    saved_model.save(model, origin, saved)
    (folder / "model.safetensors").unlink()
    again = saved_model.load(saved)

    assert torch.equal(logits(again.net), logits(model.net))
    assert again.encode("xyz").tolist() == model.encode("xyz").tolist()
    assert again.net.lm_head.weight is again.net.model.embed_tokens.weight
    assert (
        saved_model.saved_bytes(model.net)
        == (saved / "model.safetensors").stat().st_size
    )


@pytest.mark.parametrize(
    "rules",
    [
        [normalizers.Replace("a", "aa")] * 30,
        [normalizers.Replace(Regex("(?=a)"), "a")] * 30,
        [normalizers.Sequence([normalizers.Replace("a", "a" * 40)] * 3)] * 2,
    ],
    ids=["thirty doublings", "thirty empty matches", "nested"],
)
def test_a_tokenizer_that_blows_up_its_text_is_refused(folder, rules):
    """Two to the thirtieth of one letter would be a gigabyte."""
    file = folder / "tokenizer.json"
    made = Tokenizer.from_file(str(file))
    made.normalizer = normalizers.Sequence(rules)
    made.save(str(file))

    with pytest.raises(BenchError, match="makes a text more than 1000 times longer"):
        HuggingFace(id=str(folder)).load()


def test_honest_rules_of_a_tokenizer_pass(folder):
    file = folder / "tokenizer.json"
    made = Tokenizer.from_file(str(file))
    steps = [normalizers.NFKC(), normalizers.Prepend("▁"), normalizers.Lowercase()]
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    made.normalizer = normalizers.Sequence([*steps, spaces])
    made.save(str(file))

    assert HuggingFace(id=str(folder)).load().tokenizer is not None

"""Models of the hub and of folders: names, revisions, tokenizers, saved networks."""

import json

import pytest
import torch
from hugging_face_folder import family, rebuild
from tiny_llm import config, logits
from tokenizers import Regex, Tokenizer, normalizers
from transformers import AutoModelForCausalLM

from harness.core import BenchError
from harness.models.huggingface import HuggingFace
from harness.planning import grid as grids
from harness.toolkit import model_size
from harness.toolkit.roles import block_of


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


@pytest.mark.parametrize(
    ("model_type", "bos"), [("llama", None), ("gemma2", "window"), ([], None)]
)
def test_the_family_decides_a_default_of_the_task_when_it_is_planned(
    model_type, bos, folder, tmp_path
):
    config = folder / "config.json"
    config.write_text(json.dumps({"model_type": model_type}))
    text = tmp_path / "text.txt"
    text.write_text("abc")
    task = f"{{name: text_perplexity, text: {text}, window: 4}}"

    def planned(task):
        path = tmp_path / "grid.yaml"
        path.write_text(f"models: [{folder}]\nmethods: [dense]\ntasks: [{task}]\n")
        (point,) = grids.read(path).points()
        return point.trial

    trial = planned(task)

    assert json.loads(trial.task.options).get("bos") == bos
    said = json.loads(trial.task.protocol)["special_tokens"]
    assert said.startswith("the begin token before" if bos else "the tokenizer's own")
    # A user who writes what the family sets has the same trial.
    if bos:
        assert planned(task.replace("}", f", bos: {bos}}}")).id == trial.id


def test_a_family_is_known_by_the_name_of_a_published_model():
    assert HuggingFace(id="Qwen/Qwen3-8B").family() == "qwen3"
    assert HuggingFace(id="org/none").family() is None


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder):
    found = rebuild(folder, config("llama", vocab_size=122))  # "z" is 122
    with pytest.raises(BenchError, match=r"ids up to 122, .* has 122 rows"):
        found.load()
    assert rebuild(folder, config("llama", vocab_size=123)).load()


def test_a_multimodal_network_is_read_as_its_text_part(folder):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": 256, "hidden_size": 24, "intermediate_size": 40, "head_dim": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 96, "sliding_window": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    net = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )
    net.save_pretrained(folder)
    model = family(folder).load()

    assert model.max_length == 96
    assert torch.equal(logits(model.net), logits(net.eval()))
    assert {block_of(name) for name, _ in model.modules()} == {0, 1}
    assert not any("vision" in name for name, _ in model.modules())
    assert model_size.coverage(model) == 1.0


def test_a_saved_network_in_a_grid_is_what_was_saved(folder, tmp_path_factory):
    """Its tensors have other names than transformers would look for."""
    from harness.core import Context
    from harness.toolkit import saved_model
    from methods.svd import Svd

    model = family(folder).load()
    ctx = Context(model=model, seed=0, device=torch.device("cpu"))
    thin = Svd().compress(Svd().fit(model, ctx), 0.3, ctx)
    saved = tmp_path_factory.mktemp("saved")
    origin = {"model": str(folder), "options": {}, "revision": "", "shape": None}
    saved_model.save(model.with_net(thin), origin, saved)

    again = family(saved).load()
    assert again.name == str(saved)
    assert torch.equal(logits(again.net), logits(thin.eval()))


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

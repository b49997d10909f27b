import json
from dataclasses import replace

import pytest
import tiny_llm
import torch
from safetensors.torch import load_file, save_file
from tiny_llm import config, logits
from tokenizers import Regex, Tokenizer, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.core import BenchError, Unsupported
from harness.models import _language
from harness.models.huggingface import HuggingFace
from harness.planning import grid as grids
from harness.registry import resolve
from harness.toolkit import model_size
from harness.toolkit.roles import ONE_EACH, block_of
from methods._kernels.heads import parts_of


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


def rebuild(folder, made):
    """Put another network in the place of the folder's, with the same tokenizer."""
    for path in folder.glob("*.safetensors"):
        path.unlink()
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    return family(folder)


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


def needs(*names, ratio_of="weights"):
    return {"needs": frozenset(names), "ratio_of": ratio_of}


def test_a_network_without_known_roles_loads_and_refuses_methods_that_read_them(folder):
    from transformers import MambaConfig

    small = MambaConfig(
        vocab_size=256, hidden_size=8, num_hidden_layers=2, state_size=4
    )
    found = rebuild(folder, small)

    assert torch.isfinite(found.load().net(**found.load().example()).logits).all()
    assert found.refuses(needs(ratio_of="none")) is None
    assert found.refuses(needs(ratio_of="weights")) is None
    for method in (needs("linears"), needs(ratio_of="zeros")):
        assert "(mamba) has no matrix whose role is known" in found.refuses(method)
        assert found.refuses(method) == found.refuses_loaded(method, found.load())


def test_a_network_of_which_a_part_has_roles_is_refused_unless_the_grid_allows(folder):
    from transformers import TrOCRConfig

    small = TrOCRConfig(
        vocab_size=256, d_model=24, decoder_layers=2, decoder_attention_heads=4,
        decoder_ffn_dim=40, cross_attention_hidden_size=24, pad_token_id=0,
    )  # fmt: skip
    found = rebuild(folder, small)
    why = found.refuses(needs("linears"))

    # By hand: attention 4 * 24*24 and an MLP of 2 * 24*40 have roles, and the attention
    # to an image, another 4 * 24*24, has none.
    assert model_size.coverage(found.load()) == pytest.approx(4224 / 6528)
    assert "only 64.7% of the block weights" in why
    assert "`partial: allow`" in why
    assert replace(found, partial="allow").refuses(needs("linears")) is None
    assert replace(found, partial="allow").refuses_loaded(
        needs("linears"), found.load()
    ) is None  # fmt: skip


def test_the_plan_and_the_loaded_network_count_experts_alike(folder):
    from transformers import MixtralConfig

    small = MixtralConfig(
        vocab_size=256, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    found = rebuild(folder, small)
    planned = _language.configured(folder, trust_remote_code=False)

    # By hand: attention 2 * 24*24 + 2 * 24*12 = 1,728 and 4 experts of 3 * 24*40 have
    # roles, and a router of 4 * 24 has none.
    share = (1728 + 4 * 3 * 24 * 40) / (1728 + 4 * 3 * 24 * 40 + 4 * 24)
    assert planned.coverage == pytest.approx(share)
    assert planned == _language.look(found.load())
    assert planned.single == ("key", "output", "query", "value")
    assert found.refuses(needs("linears")) is None


@pytest.mark.parametrize("need", ["units", "width"])
def test_structured_methods_are_refused_before_a_mixture_is_loaded(folder, need):
    from transformers import MixtralConfig

    wanted = needs("linears", need)
    assert family(folder).refuses(wanted) is None

    small = MixtralConfig(
        vocab_size=256, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    found = rebuild(folder, small)
    why = found.refuses(wanted)

    assert "(mixtral) does not have one matrix of role" in why
    assert "take a dense model" in why
    assert found.refuses_loaded(wanted, found.load()) == why


@pytest.mark.parametrize(
    ("name", "treated"),
    [("llama", True), ("opt", True), ("gpt2", False), ("qwen3_moe", False)],
)
def test_what_the_plan_says_of_units_is_what_structured_methods_do(name, treated):
    model = tiny_llm.tiny(name)
    single = _language.look(model).single

    assert (set(ONE_EACH["units"]) <= set(single)) == treated
    if treated:
        assert parts_of(model)
    else:
        with pytest.raises(Unsupported, match="does not have one matrix of role"):
            parts_of(model)


def test_the_plan_needs_no_weights_to_know_the_roles(folder):
    (folder / "model.safetensors").unlink()
    assert family(folder).refuses(needs("linears")) is None
    with pytest.raises(BenchError, match="no weights in"):
        family(folder).load()


def edit(folder, change, name="model.safetensors"):
    tensors = load_file(folder / name)
    save_file(change(tensors), folder / name, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "layers.2.mlp" not in k},
            r"it lacks model\.layers\.2\.mlp\.down_proj\.weight, .*gate_proj.*up_proj",
        ),
        (
            lambda t: {f"module.{k}": v for k, v in t.items()},
            r"no place for module\.model\.embed_tokens\.weight",
        ),
        (
            lambda t: t | {"model.layers.3.mlp.up_proj.weight": torch.ones(40, 24)},
            r"no place for model\.layers\.3\.mlp\.up_proj\.weight",
        ),
        (
            lambda t: t | {"model.layers.1.mlp.up_proj.weight": torch.ones(40, 8)},
            r"model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        (
            lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"},
            r"it lacks model\.norm\.weight\.",
        ),
    ],
    ids=["missing", "prefix", "a layer too many", "shape", "one norm"],
)
def test_a_checkpoint_that_does_not_fill_the_network_is_refused(folder, change, said):
    edit(folder, change)
    with pytest.raises(BenchError, match=said):
        family(folder).load()


def test_tied_weights_and_stored_constants_are_no_misfit(folder):
    """LLaMA here ties its head; old files also store the rotary frequencies."""
    constant = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda t: t | {constant: torch.ones(3)})
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    net = family(folder).load().net
    assert net.lm_head.weight is net.model.embed_tokens.weight


def test_an_expert_that_is_missing_is_named(folder):
    from transformers import MixtralConfig

    small = MixtralConfig(
        vocab_size=256, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    found = rebuild(folder, small)
    lost = next(k for k in load_file(folder / "model.safetensors") if "experts" in k)
    edit(folder, lambda t: {k: v for k, v in t.items() if k != lost})
    with pytest.raises(BenchError, match="experts"):
        found.load()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda b: b[: len(b) // 2], "it is cut off or damaged, fetch it again"),
        (lambda b: b + b"x", "it is cut off or damaged"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (lambda b: b"", "is not a safetensors file"),
        (lambda b: b"\x10" + bytes(7) + b"{" * 16, "cut off or not a safetensors file"),
        (lambda b: b"<html>not found</html>", "is not a safetensors file"),
    ],
    ids=["half", "longer", "pointer", "empty", "header", "a web page"],
)
def test_a_damaged_file_is_named_in_one_sentence(folder, content, said):
    path = folder / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(BenchError, match=said) as caught:
        family(folder).load()
    assert len(caught.value.errors) == 1
    assert str(path) in str(caught.value)


def test_every_missing_shard_is_named(folder):
    net = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    net.save_pretrained(folder, max_shard_size="20KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert family(folder).load()
    for path in shards[1:3]:
        path.unlink()
    with pytest.raises(BenchError) as caught:
        family(folder).load()
    assert [m.split(" is missing")[0] for m in caught.value.errors] == [
        str(path) for path in shards[1:3]
    ]


def as_pickle(folder, change=lambda state: state):
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(change(dict(state)), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def test_a_pickle_of_tensors_loads_and_one_of_code_is_refused(folder):
    expected = logits(family(folder).load().net)
    path = as_pickle(folder)
    assert torch.equal(logits(family(folder).load().net), expected)

    torch.save({"hook": logits}, path)  # a function of a module: running it is code
    with pytest.raises(BenchError, match=r"may run any code; .* python -c"):
        family(folder).load()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BenchError, match=r"pytorch_model\.bin is cut off"):
        family(folder).load()


def test_an_adapter_is_refused_since_its_base_is_elsewhere(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BenchError, match="merge_and_unload"):
        family(folder).load()


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


def test_the_revision_follows_every_byte_of_every_file(folder):
    def revision():
        return family(folder).revision()

    seen = [revision()]
    edit(folder, lambda t: t | {"model.norm.weight": t["model.norm.weight"] + 1})
    seen.append(revision())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text() + " ")
        seen.append(revision())
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    seen.append(revision())
    path = as_pickle(folder)
    seen.append(revision())
    data = bytearray(path.read_bytes())
    data[-300] ^= 1  # equal size
    path.write_bytes(data)
    seen.append(revision())

    assert len(set(seen)) == len(seen)
    (folder / "README.md").write_text("words")
    assert revision() == seen[-1]


def test_the_revision_follows_the_weights_that_are_loaded(folder):
    """Not another safetensors file, and one that the configuration names itself."""
    path = as_pickle(folder)
    save_file({"x": torch.ones(2)}, folder / "stray.safetensors")
    before = family(folder).revision()
    state = torch.load(path)
    torch.save(state | {"model.norm.weight": torch.zeros(24)}, path)
    assert family(folder).revision() != before
    assert not family(folder).load().net.model.norm.weight.any()

    (folder / "sub").mkdir()
    apart = {k: v.clone() for k, v in state.items() if k != "lm_head.weight"}  # tied
    save_file(apart, folder / "sub" / "own.safetensors", metadata={"format": "pt"})
    said = json.loads((folder / "config.json").read_text())
    said["transformers_weights"] = "sub/own.safetensors"
    (folder / "config.json").write_text(json.dumps(said))
    before = family(folder).revision()
    edit(folder / "sub", lambda t: {k: t[k] + 1 for k in t}, "own.safetensors")
    assert family(folder).revision() != before
    path.unlink()
    norm = family(folder).load().net.model.norm.weight
    assert torch.equal(norm, state["model.norm.weight"] + 1)


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

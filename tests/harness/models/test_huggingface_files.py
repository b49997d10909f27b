"""Files of a model that are damaged, missing or do not fit, and which files count."""

import json

import pytest
import torch
from hugging_face_folder import as_pickle, edit, family, mixture, rebuild
from safetensors.torch import load_file, save_file
from tiny_llm import logits
from transformers import AutoModelForCausalLM

from harness.core import BenchError


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
    found = rebuild(folder, mixture())
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

"""GGUF files, read again by the reader of gguf and by that of transformers."""

import sys
from pathlib import Path

import pytest
import torch
from byte_pairs import tokenizer
from tokenizers import normalizers
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from harness.core import BenchError
from harness.models import _language
from harness.toolkit import gguf_check, gguf_form, gguf_tokenizer, saved_model
from methods.shortgpt import DroppedBlock

gguf = pytest.importorskip("gguf")

SIZES = {
    "vocab_size": 320,  # more than the tokenizer has
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
GPT2 = {
    "vocab_size": 320,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
FAMILIES = {  # that the reader of transformers knows, too
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 128},  # the reader knows no other
    "gpt2": {"n_positions": 1024},  # its reader does not take the number from the file
}


def small(name, words=None, dtype=torch.float32, **changes):
    family = name.split()[0]
    options = {**(GPT2 if family == "gpt2" else SIZES), **changes}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**options)
    net = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for value in net.parameters():  # biases and scales of norms that matter
            value.add_(torch.randn_like(value) * (0.3 if value.ndim == 1 else 0.1))
    return _language.wrap(f"tiny-{name}", net, words or tokenizer())


@pytest.fixture
def alone(monkeypatch):
    """llama.cpp is not installed."""
    monkeypatch.setattr(gguf_check, "can_check", lambda: False)


def fields(path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def logits(net):
    ids = torch.arange(24).mul(7).remainder(300)[None]
    with torch.inference_mode():
        return net(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_network_back(name, tmp_path, alone):
    model = small(name, **FAMILIES[name])

    assert gguf_form.write(model, {}, tmp_path, "# A card\n") is None

    assert {p.name for p in tmp_path.iterdir()} == {"model.gguf", "README.md"}
    opened = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    torch.testing.assert_close(logits(opened), logits(model.net))
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("# A card\n")
    assert "llama-cli --model model.gguf" in card


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "BF16")],
)
def test_numbers_are_written_as_they_are_stored(dtype, kind, tmp_path, alone):
    model = small("llama", dtype=dtype)
    gguf_form.write(model, {}, tmp_path, "")

    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}

    matrix = tensors["blk.1.ffn_up.weight"]
    assert matrix.tensor_type.name == kind
    found = torch.from_numpy(gguf.dequantize(matrix.data, matrix.tensor_type).copy())
    stored = model.net.model.layers[1].mlp.up_proj.weight
    assert torch.equal(found, stored.float())
    assert tensors["output_norm.weight"].tensor_type.name == "F32"


def test_the_header_says_what_the_configuration_says(tmp_path, alone):
    model = small("mistral", head_dim=16, sliding_window=64, rms_norm_eps=1e-3)
    gguf_form.write(model, {}, tmp_path, "")

    found = fields(tmp_path / "model.gguf")

    assert found["general.architecture"] == "llama"
    said = {
        key.removeprefix("llama."): value
        for key, value in found.items()
        if key.startswith("llama.")
    }
    assert said == {
        "context_length": 64,  # within the window, full attention is the same
        "embedding_length": 32,
        "block_count": 4,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-3),
        "rope.freq_base": 10000.0,
        "rope.dimension_count": 16,
        "vocab_size": 320,
    }


def test_dropped_blocks_are_not_in_the_file(tmp_path, alone):
    model = small("llama")
    saved_model.replace(model.net, "model.layers.2", DroppedBlock())

    gguf_form.write(model, {}, tmp_path, "")

    assert fields(tmp_path / "model.gguf")["llama.block_count"] == 3
    opened = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    torch.testing.assert_close(logits(opened), logits(model.net))


def test_scaled_positions_have_their_factors(tmp_path, alone):
    # By hand: a head of 8 channels has the frequencies 10000^(0, -1/4, -1/2, -3/4),
    # and linear scaling divides each by the factor.
    rotary = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    gguf_form.write(small("llama", rope_parameters=rotary), {}, tmp_path, "")

    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}

    assert tensors["rope_freqs.weight"].data == pytest.approx([4.0] * 4)


@pytest.mark.parametrize("begin", [True, False])
def test_the_tokenizer_is_in_the_file(begin, tmp_path, alone):
    words = tokenizer(begin=begin)
    words.add_tokens(["joy"])
    words.chat_template = "{{ messages[0].content }}"
    gguf_form.write(small("llama", words), {}, tmp_path, "")

    found = fields(tmp_path / "model.gguf")

    tokens, kinds = (found[f"tokenizer.ggml.{k}"] for k in ("tokens", "token_type"))
    assert tokens[:2] == ["<s>", "</s>"]
    assert tokens[300:302] == ["joy", "[PAD301]"]
    assert len(tokens) == len(kinds) == 320
    # Of gguf.TokenType: control, normal, user-defined, unused.
    assert (kinds[0], kinds[2], kinds[300], kinds[301]) == (3, 1, 4, 5)
    assert found["tokenizer.ggml.add_bos_token"] is begin
    assert found["tokenizer.ggml.bos_token_id"] == 0
    assert found["tokenizer.ggml.eos_token_id"] == 1
    assert found["tokenizer.chat_template"] == words.chat_template
    # The first pair that was merged.
    assert found["tokenizer.ggml.merges"][0].replace(" ", "") == tokens[258]


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_the_way_to_cut_a_text_has_llama_cpps_name(name):
    known = gguf_form._table()["pre_tokenizers"]
    assert gguf_tokenizer.pre_tokenizer(tokenizer(name), known) == name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pre_tokenizer": Whitespace()}, "cuts texts in another way than gpt-2, sm"),
        ({"normalizer": normalizers.Lowercase()}, "a normalizer of the type Lowercase"),
    ],
)
def test_another_tokenizer_is_refused(changes, said, tmp_path):
    with pytest.raises(BenchError, match=said):
        gguf_form.write(small("llama", tokenizer(**changes)), {}, tmp_path, "")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_words_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words = PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(BenchError, match="it does not merge pairs of bytes"):
        gguf_form.write(small("llama", words), {}, tmp_path, "")


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN["original_max_position_embeddings"] = 64


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llama", {"hidden_act": "relu"}, "has hidden_act relu, and llama.cpp comp"),
        ("llama", {"rope_parameters": YARN}, "scales its positions by the rule yarn"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, "of every 4th block, and the mo"),
        (
            "opt",
            {},
            "knows the families gemma, .*, and this model is of the family opt",
        ),
    ],
)
def test_what_llama_cpp_would_compute_in_another_way_is_refused(
    name, changes, said, tmp_path, alone
):
    if name == "opt":
        changes = {"word_embed_proj_dim": 32, "ffn_dim": 48}
    with pytest.raises(BenchError, match=said):
        gguf_form.write(small(name, **changes), {}, tmp_path, "")
    assert not list(tmp_path.iterdir())


def test_layers_that_were_not_merged_are_refused(tmp_path, alone):
    from methods._kernels.low_rank.layers import LowRank

    model = small("llama")
    thin = LowRank(32, 48, 4, bias=False)
    saved_model.replace(model.net, "model.layers.0.mlp.up_proj", thin)

    with pytest.raises(
        BenchError, match=r"layers \(low_rank, .* that no plain .*--merge"
    ):
        gguf_form.write(model, {}, tmp_path, "")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(gguf_form.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match="needs the package gguf: `pip install gguf`"):
        gguf_form.check_family("llama")


class Llama:
    """llama.cpp as far as the check needs it, around a network of transformers."""

    net, words, change = None, None, 1.0

    def __init__(self, path, **options):
        assert Path(path).is_file()

    def tokenize(self, text, *, add_bos, special):
        return self.words(text.decode()).input_ids

    def reset(self):
        self.scores = None

    def eval(self, ids):
        with torch.inference_mode():
            self.scores = self.net(torch.tensor([ids])).logits[0].numpy() * self.change


@pytest.fixture
def llama(monkeypatch):
    """A module that stands for llama-cpp-python."""
    made = type("Llama", (Llama,), {})
    module = type(sys)("llama_cpp")
    module.Llama = made
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    monkeypatch.setattr(gguf_check, "can_check", lambda: True)
    return made


def test_the_runtime_is_compared_where_it_is_installed(llama, tmp_path):
    model = small("llama")
    llama.net, llama.words, llama.change = model.net, model.tokenizer, 1.01

    assert gguf_form.write(model, {}, tmp_path, "") == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("change", "begin", "said"),
    [
        (
            1.2,
            False,
            "the logits of llama.cpp differ from those of tiny-llama by 0.2",
        ),
        (float("nan"), False, "differ from those of tiny-llama by nan of their"),
        (1.0, True, "llama.cpp cuts .* into other tokens"),
    ],
)
def test_a_file_that_the_runtime_reads_in_another_way_is_deleted(
    change, begin, said, llama, tmp_path
):
    model = small("llama")
    llama.net, llama.change = model.net, change
    llama.words = staticmethod(tokenizer(begin=begin))

    with pytest.raises(BenchError, match=said):
        gguf_form.write(model, {}, tmp_path, "")
    assert not list(tmp_path.iterdir())


def test_a_matrix_of_gpt2_is_not_taken_for_an_embedding(tmp_path, alone):
    model = small("gpt2")
    gguf_form.write(model, {}, tmp_path, "")

    tensors = {t.name: t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}

    # GGUF names the innermost side first: 32 inputs, 3 * 32 outputs.
    assert tensors["blk.0.attn_qkv.weight"].shape.tolist() == [32, 96]
    assert tensors["token_embd.weight"].shape.tolist() == [32, 320]
    assert isinstance(model.net.transformer.wte, nn.Embedding)

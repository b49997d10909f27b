"""Families of language models: their roles, and their numbers in plain transformers."""

import math

import pytest
import torch
from families import FAMILIES, MIXTURES, configuration, tiny, with_letters
from tiny_llm import context
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from harness.models import _families
from harness.models.huggingface import HuggingFace
from harness.registry import find
from harness.toolkit import model_size
from tasks.text_perplexity import TextPerplexity

WINDOW = 48
TEXT = "the quick brown fox jumps over the lazy dog and runs " * 12


def tokenizer():
    """One token a letter."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {chr(i): i for i in range(97, 123)} | {"?": 1}
    backend = Tokenizer(models.WordLevel(letters, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def reference(folder):
    """Perplexity over full windows, by transformers and its own loss alone."""
    net = AutoModelForCausalLM.from_pretrained(folder).eval()
    # Some families read a folder with their own tokenizer class, other than it was
    # saved with; plain transformers does so too.
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(TEXT).input_ids)
    windows = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    with torch.inference_mode():
        # No cache: transformers refuses to make one for linear attention alone.
        losses = [
            float(net(input_ids=w[None], labels=w[None], use_cache=False).loss)
            for w in windows
        ]
    return math.exp(math.fsum(losses) / len(losses))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_dense_perplexity_is_that_of_plain_transformers(family, tmp_path):
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(configuration(family, FAMILIES[family]))
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim >= 2:
                weight.mul_(4)  # so that families differ from a uniform guess
    net.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    text = tmp_path / "text"
    text.write_text(TEXT)

    model = HuggingFace(id=str(tmp_path)).load()
    task = TextPerplexity(text=str(text), window=WINDOW)
    measured = {m.metric: m.value for m in task.evaluate(model)}

    assert measured["perplexity"] == pytest.approx(reference(tmp_path), rel=1e-6)


def one_each(families):
    return [
        pytest.param(
            f, marks=() if f in ("bloom", "lfm2", "qwen3_moe") else pytest.mark.slow
        )
        for f in families
    ]


@pytest.mark.parametrize(
    "family",
    one_each(
        ["bloom", "falcon", "gpt_neox", "gptj", "codegen", "mpt", "phi", "gpt_neo",
         "starcoder2", "lfm2", "qwen3_5_text", "persimmon", *MIXTURES]
    ),
)  # fmt: skip
@pytest.mark.parametrize("name", ["svd", "basis_sharing", "wanda", "gptq"])
def test_a_method_changes_every_matrix_of_a_family_and_none_at_ratio_0(
    family, name, tmp_path
):
    model = with_letters(tiny(family))
    ctx = context(model, tmp_path)
    ids = torch.arange(16).mul(7).remainder(128)[None]
    before = model.net(input_ids=ids, use_cache=False).logits

    plugin = find("method", name)
    method = plugin.build({})
    fitted = method.fit(model, ctx) if hasattr(method, "fit") else None
    ratio = method.ratios()[0] if name == "gptq" else 0.5
    net = method.compress(fitted, ratio, ctx)
    same = method.compress(fitted, 0, ctx)

    sizes = (model_size.size(model), model_size.size(model.with_net(net)))
    # What stays dense: the two vectors of linear attention. 4 bits have scales beside.
    least = 0.7 if name == "gptq" else ratio * model_size.coverage(model)
    assert model_size.coverage(model) > 0.95
    assert model_size.achieved(plugin.facts["ratio_of"], model, net, sizes) >= least
    assert net(input_ids=ids, use_cache=False).logits.isfinite().all()
    torch.testing.assert_close(
        same(input_ids=ids, use_cache=False).logits, before, rtol=0, atol=0
    )


@pytest.mark.parametrize("family", ["llama", "bloom", "falcon", "lfm2", "mixtral"])
def test_the_table_of_families_has_what_a_default_network_has(family):
    listed = {one.family: one for one in _families.known()}

    assert _families.look(family, {}) == listed[family]


@pytest.mark.slow
def test_the_table_of_families_has_every_family_of_transformers():
    found = dict(_families.walk(_families.settings()))
    failed = {name for name, what in found.items() if isinstance(what, Exception)}

    assert failed == set(_families.skipped())
    assert _families.known() == [
        what for name, what in found.items() if name not in failed
    ]


def test_coverage_by_hand():
    # A block of Mixtral: 4,096 x (4,096 + 1,024 + 1,024 + 4,096) of attention, eight
    # experts of 3 x 4,096 x 14,336, and a router of 8 x 4,096, which alone stays dense.
    attention, experts = 4096 * 10240, 8 * 3 * 4096 * 14336
    listed = {one.family: one for one in _families.known()}

    treated = attention + experts
    share = treated / (treated + 8 * 4096)
    assert listed["mixtral"].coverage == pytest.approx(share, abs=1e-4)
    assert listed["mixtral"].dense == ("mlp.gate",)
    assert [listed[n].treated for n in ("mixtral", "bamba", "mamba")] == [
        "yes", "in part", "no",
    ]  # fmt: skip

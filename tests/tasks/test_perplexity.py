import math

import pytest
import torch
from tiny_llm import tiny
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from harness.core import BenchError, Model, NotFinite, Unsupported
from harness.models import _language
from harness.registry import discover, find
from tasks import _perplexity

VOCABULARY = 50


class Unigram(nn.Module):
    """Predicts the same distribution after every token."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids, use_cache=False):
        shape = (*input_ids.shape, len(self.logits))
        return type("Output", (), {"logits": self.logits.expand(shape)})


def language_model(logits, **changes):
    options = {
        "name": "unigram",
        "net": Unigram(logits),
        "kind": "causal_lm",
        "roles": {},
        "example": dict,
        "encode": lambda text: torch.tensor([int(c) for c in text]),
    }
    return Model(**{**options, **changes})


def measured(model, text, tmp_path, **options):
    path = tmp_path / "text.txt"
    path.write_text(text)
    task = find("task", "text_perplexity").build({"text": str(path), **options})
    return {m.metric: m for m in task.evaluate(model)}


def test_a_uniform_guess_over_fifty_tokens_has_perplexity_fifty(tmp_path):
    found = measured(language_model([0.0] * VOCABULARY), "0123" * 9, tmp_path, window=4)
    assert found["perplexity"].value == pytest.approx(VOCABULARY)
    assert found["perplexity"].stderr == pytest.approx(0, abs=1e-6)
    assert found["loss"].n == 9
    assert found["perplexity"].chance is None  # the network does not say its vocabulary


def test_a_guess_is_the_level_of_chance(tmp_path):
    model = language_model([0.0] * VOCABULARY)
    model.net.get_input_embeddings = lambda: nn.Embedding(VOCABULARY, 1)
    found = measured(model, "0123" * 9, tmp_path, window=4)
    assert found["perplexity"].chance == VOCABULARY
    assert found["loss"].chance == pytest.approx(found["loss"].value)


# p(0) = 3/4 and p(1) = 1/4. The text 0000 11 in windows of four: the full window
# predicts 0 three times, loss ln(4/3); the tail of two predicts 1 once, loss ln 4.
SKEWED = [math.log(3.0), 0.0]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [("dropped", 4 / 3), ("equal_weight", math.sqrt(4 / 3 * 4))],
)
def test_two_protocols_give_the_two_numbers_of_a_hand_worked_text(
    tail, expected, tmp_path
):
    found = measured(language_model(SKEWED), "000011", tmp_path, window=4, tail=tail)
    assert found["perplexity"].value == pytest.approx(expected)


def test_the_loss_of_every_window_is_kept_and_the_error_is_over_windows(tmp_path):
    # Windows 000, 011, 111: 0, 2 and 2 ones predicted after the first token.
    found = measured(language_model(SKEWED), "000011111", tmp_path, window=3)
    zero, one = math.log(4 / 3), math.log(4)
    assert found["loss"].values == pytest.approx([zero, one, one])
    mean = (zero + 2 * one) / 3
    stderr = math.sqrt(
        ((zero - mean) ** 2 + 2 * (one - mean) ** 2) / 2 / 3
    )  # sample deviation over the root of n
    assert found["loss"].stderr == pytest.approx(stderr)
    assert found["perplexity"].stderr == pytest.approx(math.exp(mean) * stderr)


def test_a_limit_reads_the_first_windows_only(tmp_path):
    found = measured(language_model(SKEWED), "000111", tmp_path, window=3, limit=1)
    assert found["perplexity"].value == pytest.approx(4 / 3)


def test_a_loss_that_is_not_finite_fails(tmp_path):
    with pytest.raises(NotFinite, match="loss of unigram is nan"):
        measured(language_model([math.nan, 0.0]), "0101", tmp_path, window=2)


def test_a_text_shorter_than_one_window_is_refused(tmp_path):
    with pytest.raises(BenchError, match="has 3 tokens, fewer than one window of 4"):
        measured(language_model(SKEWED), "010", tmp_path, window=4)


def test_a_window_longer_than_the_model_reads_is_unsupported(tmp_path):
    with pytest.raises(Unsupported, match="reads 3 tokens at most"):
        measured(language_model(SKEWED, max_length=3), "0101", tmp_path, window=4)


def test_a_model_without_a_tokenizer_is_unsupported(tmp_path):
    with pytest.raises(Unsupported, match="no tokenizer"):
        measured(language_model(SKEWED, encode=None), "0101", tmp_path, window=2)


@pytest.mark.parametrize("options", [{"limit": 0}, {"window": 1}])
def test_an_option_out_of_range_is_refused(options, tmp_path):
    with pytest.raises(BenchError, match=r"is not (1|2) or more"):
        measured(language_model(SKEWED), "0101", tmp_path, **{"window": 2} | options)


def test_protocols_differ_wherever_two_numbers_do_not_compare():
    tasks = [
        plugin.build({}).protocol()
        for plugin in discover("task").values()
        if issubclass(plugin.cls, _perplexity.WindowPerplexity)
        and plugin.name != "text_perplexity"
    ]
    assert len(tasks) == 6
    assert all(one != two for i, one in enumerate(tasks) for two in tasks[:i])


def test_logits_in_half_precision_are_summed_in_float32(tmp_path):
    model = language_model([0.0] * VOCABULARY)
    model.net.half()
    found = measured(model, "01" * 600, tmp_path, window=1200)
    assert found["perplexity"].value == pytest.approx(VOCABULARY, rel=1e-6)


class Seen(Unigram):
    """Remembers the windows that it saw."""

    def forward(self, input_ids, use_cache=False):
        self.rows = [*getattr(self, "rows", []), *input_ids.tolist()]
        return super().forward(input_ids, use_cache)


LETTERS = {letter: i for i, letter in enumerate("<>abc")}


def lettered(template="$A", **tokens):
    """A model of one token a letter, whose network remembers what it saw."""
    made = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4}))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single=template,
        pair=f"{template} $B",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **tokens)
    net = Seen([0.0] * 5)
    wrapped = _language.wrap("tiny", tiny("llama", vocab_size=5).net, tokenizer)
    options = {"net": net, "encode": wrapped.encode, "tokenizer": tokenizer}
    return language_model([0.0] * 5, **options)


def tokens(rows):
    return [[LETTERS[letter] for letter in row] for row in rows]


@pytest.mark.parametrize(
    ("template", "tail", "rows"),
    [
        ("$A", "dropped", ["ab", "ca"]),
        ("<s> $A", "dropped", ["<a", "bc", "ab"]),
        ("<s> $A", "equal_weight", ["<a", "bc", "ab"]),
        ("$A </s>", "dropped", ["ab", "ca", "b>"]),
        ("<s> $A </s>", "dropped", ["<a", "bc", "ab"]),
        ("<s> $A </s>", "equal_weight", ["<a", "bc", "ab"]),
    ],
)
@pytest.mark.parametrize("bos", [None, "once"])
def test_special_tokens_are_once_around_the_whole_text(
    bos, template, tail, rows, tmp_path
):
    model = lettered(template)
    measured(model, "abcab", tmp_path, window=2, tail=tail, bos=bos)
    assert model.net.rows == tokens(rows)


@pytest.mark.parametrize(
    ("bos", "tail", "rows"),
    [
        ("window", "dropped", ["<ab", "<ca"]),
        ("window", "equal_weight", ["<ab", "<ca", "<b"]),
        ("never", "dropped", ["abc"]),
        ("never", "equal_weight", ["abc", "ab"]),
    ],
)
@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>"])
def test_a_begin_token_is_before_every_window_or_nowhere(
    template, bos, tail, rows, tmp_path
):
    model = lettered(template, bos_token="<s>")

    found = measured(model, "abcab", tmp_path, window=3, tail=tail, bos=bos)

    assert model.net.rows == tokens(rows)
    # Every token but the first of each window is predicted.
    scored = found["scored_tokens"]
    assert (scored.value, scored.n) == (sum(len(r) - 1 for r in rows), len(rows))


def test_windows_that_begin_alike_have_the_loss_that_transformers_computes(tmp_path):
    model = tiny("llama", vocab_size=5)
    asked = lettered(bos_token="<s>")
    model = Model(
        **{f: getattr(asked, f) for f in asked.__slots__} | {"net": model.net}
    )

    found = measured(model, "abcabcca", tmp_path, window=5, bos="window")

    rows = torch.tensor(tokens(["<abca", "<bcca"]))
    expected = [model.net(r[None], labels=r[None]).loss.item() for r in rows]
    assert found["loss"].values == pytest.approx(expected, rel=1e-5)


def test_a_begin_token_that_a_tokenizer_lacks_is_named(tmp_path):
    with pytest.raises(Unsupported, match=r"bos: window: .* has no begin token"):
        measured(lettered(), "abcab", tmp_path, window=3, bos="window")
    with pytest.raises(Unsupported, match="leave the option bos out"):
        measured(language_model(SKEWED), "0101", tmp_path, window=2, bos="never")


def test_the_protocol_says_where_the_begin_token_is():
    build = find("task", "wikitext2-2048").build
    said = {b: build({"bos": b}).protocol()["special_tokens"] for b in _perplexity.BOS}
    assert len({*said.values()}) == 3
    assert build({}).protocol() == build({"bos": "once"}).protocol()


def test_only_gemma_asks_for_a_begin_token_before_every_window():
    build = find("task", "wikitext2-2048").build
    for family in ("gemma", "gemma2", "gemma3_text", "recurrent_gemma"):
        assert build({}).suited(family).bos == "window"
    for family in (None, "llama", "qwen3"):
        assert build({}).suited(family) == build({})
        assert build({"bos": "once"}).suited(family) == build({})
        assert build({"bos": "window"}).suited(family).bos == "window"
    assert build({"bos": "once"}).suited("gemma2").bos == "once"

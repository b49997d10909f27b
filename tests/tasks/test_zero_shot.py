"""Zero-shot tasks of lm-eval, against likelihoods that were worked by hand."""

import json
import math

import pytest
import torch
from tiny_llm import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.models.llama import LlamaConfig

from harness.core import BenchError, Model, NotFinite, Unsupported
from harness.registry import resolve
from harness.toolkit import texts
from tasks._lm_eval import evaluate, task_index
from tasks.pydoc_cloze import paragraphs

pytestmark = pytest.mark.usefixtures("own_caches")

# A letter is a token; p(a) = 1/2, p(b) = 1/4, p(c) = 1/8, the rest is the end token's.
PROBABILITIES = {"</s>": 1 / 8, "a": 1 / 2, "b": 1 / 4, "c": 1 / 8}

TASK = """
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 3}}
"""
# Bits of each answer, and bits a letter (the first answer is the right one):
#   b 2 (2)   against aaa 3 (1):     acc takes b, acc_norm takes aaa
#   cc 6 (3)  against ab 3 (1.5):    both take ab
#   a 1 (1)   against b 2 (2):       both take a
DOCUMENTS = [
    {"question": "a", "choices": ["b", "aaa"], "answer": 0},
    {"question": "b", "choices": ["cc", "ab"], "answer": 0},
    {"question": "c", "choices": ["a", "b"], "answer": 0},
]


class Unigram(nn.Module):
    """Predicts the same distribution after every token."""

    def __init__(self, probabilities=PROBABILITIES):
        super().__init__()
        self.config = LlamaConfig(max_position_embeddings=32)
        logits = [math.log(p) for p in probabilities.values()]
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, ids):
        shape = (*ids.shape, len(self.logits))
        return type("Output", (), {"logits": self.logits.expand(shape)})


def letters(order="abc", **tokens):
    words = {w: i for i, w in enumerate(["</s>", *order])}
    made = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    options = {"eos_token": "</s>", "bos_token": None, **tokens}
    return PreTrainedTokenizerFast(tokenizer_object=made, **options)


def language_model(net=None, tokenizer="letters", **changes):
    options = {
        "name": "unigram",
        "net": Unigram() if net is None else net,
        "kind": "causal_lm",
        "roles": {},
        "example": dict,
        "tokenizer": letters() if tokenizer == "letters" else tokenizer,
    }
    return Model(**{**options, **changes})


def written(folder, text=TASK, name="letters", documents=DOCUMENTS):
    data = folder / f"{name}.jsonl"
    data.write_text("\n".join(json.dumps(d) for d in documents))
    path = folder / f"{name}.yaml"
    path.write_text(text.format(data=data))
    return str(path)


@pytest.fixture
def task(tmp_path):
    def build(name=None, **options):
        plugin, implied = resolve("task", name or written(tmp_path))
        return plugin.build(implied | options)

    return build


def measured(task, model):
    return {m.metric: m for m in task.evaluate(model)}


def test_accuracies_are_those_of_hand_worked_likelihoods(task):
    found = measured(task(), language_model())
    # acc is right on 1 and 3; acc_norm, by the letter, on 3 alone.
    assert found["acc"].values == [1.0, 0.0, 1.0]
    assert found["acc_norm"].values == [0.0, 0.0, 1.0]
    assert found["acc"].value == pytest.approx(2 / 3)
    assert found["acc"].goal == "max"
    assert found["acc"].n == 3
    shares = [1 / len(d["choices"]) for d in DOCUMENTS]
    assert found["acc"].chance == pytest.approx(sum(shares) / 3)
    assert found["acc_norm"].chance == found["acc"].chance
    assert found["truncated_prompts"].chance is None
    # The sample deviation of 1, 0, 1 is sqrt(1/3); its mean's error is that / sqrt(3).
    assert found["acc"].stderr == pytest.approx(1 / 3)


def test_a_limit_reads_the_first_examples_only(task):
    assert measured(task(limit=2), language_model())["acc"].values == [1.0, 0.0]


def test_the_batch_size_changes_no_number(task):
    one = measured(task(batch_size=1), language_model())
    many = measured(task(batch_size=100), language_model())
    assert one == many


def test_requests_are_tokenised_once_for_all_networks_of_a_tokenizer(task, monkeypatch):
    tokenizer, asked = letters(), []
    encode = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda *a, **k: asked.append(a) or encode(*a, **k)
    )
    chosen = task()
    dense = measured(chosen, language_model(tokenizer=tokenizer))
    before = len(asked)
    flat = Unigram(dict.fromkeys(PROBABILITIES, 1 / 4))
    other = measured(chosen, language_model(flat, tokenizer))
    assert before > 0
    assert len(asked) == before
    # All tokens alike: the shorter answer wins, and of two as long the first.
    assert other["acc"].values == [1.0, 1.0, 1.0]
    again = measured(chosen, language_model(tokenizer=tokenizer))
    assert again == dense


def test_another_tokenizer_does_not_read_what_the_first_has_made(task):
    chosen = task()
    assert measured(chosen, language_model())["acc"].values == [1.0, 0.0, 1.0]
    # Now c is likelier than b is likelier than a.
    swapped = measured(chosen, language_model(tokenizer=letters("cba")))
    assert swapped["acc"].values == [1.0, 1.0, 0.0]


def test_nothing_is_printed_and_the_loggers_are_as_before(task, capfd, caplog):
    import logging

    level = logging.getLogger("datasets").level
    measured(task(), language_model())
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger("datasets").level == level


def test_a_group_gives_its_mean_and_the_metrics_of_each_member(tmp_path, task):
    written(tmp_path)
    second = TASK.replace("task: letters", "task: more")
    written(tmp_path, second, "more", [DOCUMENTS[2]] * 3)
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [letters, more]\naggregate_metric_list: "
        "[{metric: acc, weight_by_size: true}]\nmetadata: {version: 1}\n"
    )
    chosen = task(str(tmp_path / "both.yaml"))
    found = measured(chosen, language_model())
    assert found["acc"].value == pytest.approx((2 + 3) / 6)
    assert found["letters/acc"].value == pytest.approx(2 / 3)
    assert found["more/acc"].values == [1.0, 1.0, 1.0]
    assert chosen.protocol()["tasks"] == {"letters": 3, "more": 3}


def test_a_rolling_likelihood_is_counted_by_the_byte(tmp_path, task):
    text = (
        "task: rolling\ndataset_path: json\n"
        "dataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        "output_type: loglikelihood_rolling\ndoc_to_text: ''\n"
        "doc_to_target: '{{{{text}}}}'\nmetric_list: [{{metric: bits_per_byte}}]\n"
    )
    path = written(tmp_path, text, "rolling", [{"text": "ab"}, {"text": "cccc"}])
    found = measured(task(path), language_model())["bits_per_byte"]
    # ab costs 1 + 2 bits, cccc costs 12: fifteen bits over six bytes.
    assert found.value == pytest.approx(15 / 6)
    assert found.goal == "min"
    assert found.values is None  # an example's outcome is a pair, not a number


def test_what_the_model_writes_is_its_greedy_continuation(tmp_path, task):
    tokenizer, net = letters(), tiny("llama", vocab_size=4).net
    prompt = torch.tensor([tokenizer.encode("abc")])
    expected = net.generate(prompt, max_new_tokens=3, do_sample=False, pad_token_id=0)
    text = (
        "task: writing\ndataset_path: json\n"
        "dataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{{{text}}}}'\n"
        "doc_to_target: '{{{{answer}}}}'\nmetric_list: [{{metric: exact_match}}]\n"
        "generation_kwargs: {{max_gen_toks: 3, do_sample: false, until: []}}\n"
    )
    answer = tokenizer.decode(expected[0, 3:], skip_special_tokens=True)
    documents = [{"text": "abc", "answer": answer}, {"text": "abc", "answer": "?"}]
    path = written(tmp_path, text, "writing", documents)
    found = measured(task(path), language_model(net, tokenizer))["exact_match"]
    assert found.values == [1.0, 0.0]


def test_a_likelihood_that_is_not_finite_fails(task):
    net = Unigram()
    net.logits.data[1] = math.nan
    with pytest.raises(NotFinite, match="not finite"):
        measured(task(), language_model(net))


def test_a_batch_that_does_not_fit_says_so(task):
    class Big(Unigram):
        def forward(self, ids):
            raise RuntimeError("[enforce fail] can't allocate memory: 1 TB")

    with pytest.raises(
        torch.OutOfMemoryError, match=r"batch of 8 .* smaller batch_size"
    ):
        measured(task(), language_model(Big()))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"tokenizer": None}, Unsupported, "has no tokenizer"),
        ({"net": nn.Linear(2, 2)}, Unsupported, "not a network of transformers"),
        ({"tokenizer": letters(eos_token=None)}, BenchError, "no end token"),
    ],
)
def test_a_model_that_lm_eval_cannot_ask_is_refused(changes, error, said, task):
    with pytest.raises(error, match=said):
        measured(task(), language_model(**changes))


def test_an_encoder_is_refused_when_it_is_loaded(tmp_path):
    from transformers import BertForMaskedLM
    from transformers.models.bert import BertConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    net = BertForMaskedLM(BertConfig(**sizes, intermediate_size=8, vocab_size=4))
    net.save_pretrained(tmp_path)
    letters().save_pretrained(tmp_path)
    plugin, implied = resolve("model", str(tmp_path))
    with pytest.raises(BenchError, match=r"is an encoder: .* Take a causal"):
        plugin.build(implied).load()


def test_add_bos_needs_a_begin_token(task):
    with pytest.raises(Unsupported, match="no begin token"):
        measured(task(add_bos=True), language_model())


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"batch_size": 0}, {"batch_size": "auto"}, {"num_fewshot": -1}],
)
def test_an_option_out_of_range_is_refused(options, task):
    with pytest.raises(BenchError, match=rf"{next(iter(options))}"):
        task(**options)


def test_an_unknown_name_is_answered_with_the_nearest_of_both():
    with pytest.raises(BenchError, match="'arc_easy'"):
        resolve("task", "arc_easyy")
    with pytest.raises(BenchError, match="'wikitext2-2048'"):
        resolve("task", "wikitext2-2049")


def test_data_that_is_missing_offline_is_named_with_the_way_to_get_it(task):
    with pytest.raises(BenchError, match=r"allenai/ai2_arc ARC-Easy.*prepare"):
        task("arc_easy").fingerprint()


def test_a_card_names_the_tasks_of_a_tag_and_is_kept(tmp_path, monkeypatch):
    made = task_index._search("ai2_arc")
    assert list(made.tasks) == ["arc_challenge", "arc_easy"]
    assert made.tasks["arc_easy"]["config"] == "ARC-Easy"
    kept = tmp_path / "cache" / "card.json"
    task_index._keep(made, kept)
    assert json.loads(kept.read_text())["tasks"] == made.tasks
    assert task_index._search("no_such_task") is None


def test_the_cloze_asks_for_the_last_word_of_paragraphs_of_prose():
    words = ["Word"] + ["word"] * 30
    text = "\n\n".join(
        [
            " ".join(words) + "\nlast.",
            " ".join(words) + " it.",  # too short a word
            "Too short a paragraph.",
            "x = 1 " + " ".join(words) + " code.",
            " ".join(words) + " (last).",
        ]
    )
    assert list(paragraphs(text)) == [{"context": " ".join(words), "word": "last"}]


def test_the_cloze_needs_no_network_and_every_example_is_kept(task):
    chosen = task("pydoc-cloze", limit=3)
    model = language_model(Unigram(), letters())
    model.net.config.max_position_embeddings = 2048
    # The likeliest letter is always an a, and no word is made of a alone.
    assert measured(chosen, model)["acc"].values == [0.0, 0.0, 0.0]
    asked = (
        evaluate._shared(chosen, model.tokenizer, chosen.fingerprint())
        .tasks["pydoc-cloze"]
        .instances
    )
    first = list(paragraphs(texts.read("pydoc-test")))[:3]
    assert [i.args for i in asked] == [(d["context"], f" {d['word']}") for d in first]
    assert chosen.fingerprint().startswith("sha256:")

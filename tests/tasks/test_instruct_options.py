"""Chat templates, reasoning and generation: what the model sees, as lm-eval does it."""

import json
import math
import statistics
from dataclasses import replace

import lm_eval.evaluator
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from spied_lm import (
    BEGIN,
    CHOICE,
    DRAWS,
    NAMED,
    SHOTS,
    TEMPLATE,
    THINKING,
    WORDS,
    WRITES,
    Spy,
    measured,
    spied,
)
from tiny_llm import tiny

from harness.core import BenchError, Measurement
from harness.models import _language
from harness.registry import find
from harness.running import worker
from harness.toolkit import tokenizer_needs
from tasks._lm_eval import evaluate, generation

pytestmark = pytest.mark.usefixtures("own_caches")


class Writer(Spy):
    """Writes the letters of a script until it is stopped."""

    def __init__(self, script):
        super().__init__(length=300)
        self.script = script

    def generate(self, input_ids, max_length, stopping_criteria, **options):
        self.rows += input_ids.tolist()
        self.options.append(options)
        for letter in self.script[: max_length - input_ids.shape[1]]:
            more = torch.full((len(input_ids), 1), WORDS[letter])
            input_ids = torch.cat([input_ids, more], 1)
            if stopping_criteria(input_ids, None).all():
                break
        return input_ids


def writer(script, **options):
    model = spied(chat_template=THINKING, **options)
    return replace(model, net=Writer(script))


def letters(row):
    names = {number: word for word, number in WORDS.items()}
    return "".join(names[number] for number in row)


class Recorded:
    """A real network that notes what is asked of it."""

    def __init__(self, monkeypatch, tokenizer):
        config = {"vocab_size": len(WORDS), "max_position_embeddings": 300}
        self.net = tiny("llama", **config).net
        self.model = _language.wrap("tiny", self.net, tokenizer)
        self.seen = []
        real = self.net.generate

        def generate(**options):
            del options["stopping_criteria"], options["attention_mask"]
            self.seen.append(options | {"input_ids": options["input_ids"].tolist()})
            return real(**options)

        monkeypatch.setattr(self.net, "generate", generate)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enable_thinking": False},
        {"enable_thinking": True, "think_end_token": "h"},
        {"chat_template_args": {"thinking": True}, "think_end_token": "h"},
        {"chat_template_args": {"thinking": False}},
        {"num_fewshot": 2},
        {"num_fewshot": 2, "fewshot_as_multiturn": False},
        {"system_instruction": "ff"},
        {"max_gen_toks": 3, "temperature": 0.0},
        {"max_gen_toks": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 4, "seed": 3},
    ],
    ids=lambda options: " ".join(options) or "template",
)
def test_the_network_is_asked_as_lm_eval_asks_it(options, task, tmp_path, monkeypatch):
    named = "chat_template_args" in options
    words = spied(chat_template=NAMED if named else THINKING).tokenizer
    chosen = task(
        SHOTS.replace("generate_until", "generate_until\nfewshot_delimiter: 'e'"),
        texts=["cd", "dcc", "ab"],
        more=4,
        apply_chat_template=True,
        **options,
    )
    ours = Recorded(monkeypatch, words)
    found = measured(chosen, ours.model)["exact_match"]

    theirs = Recorded(monkeypatch, words)
    of_model = ("enable_thinking", "chat_template_args", "think_end_token")
    of_writing = ("max_gen_toks", "temperature", "top_p", "top_k")
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed")
    kwargs = {key: options[key] for key in of_writing if key in options}
    seed = options.get("seed")
    with evaluate.quiet():
        results = lm_eval.evaluator.simple_evaluate(
            model=HFLM(
                pretrained=theirs.net,
                tokenizer=words,
                batch_size=8,
                **{key: options[key] for key in of_model if key in options},
            ),
            tasks=["writing"],
            task_manager=TaskManager(
                include_path=str(tmp_path), include_defaults=False
            ),
            num_fewshot=options.get("num_fewshot"),
            apply_chat_template=True,
            fewshot_as_multiturn=options.get("fewshot_as_multiturn", True),
            system_instruction=options.get("system_instruction"),
            # On lm-eval's command line a user writes `do_sample` beside a temperature.
            gen_kwargs=kwargs | {"do_sample": True} if seed else kwargs or None,
            **dict.fromkeys((*seeds, "fewshot_random_seed"), seed) if seed else {},
        )

    assert ours.seen == theirs.seen
    assert found.value == results["results"]["writing"]["exact_match,none"]
    loaded = evaluate._shared(chosen, words, chosen.fingerprint())
    asked = loaded.tasks["writing"].instances
    answers = [one["resps"] for one in results["samples"]["writing"]]
    assert [[one.resps] for one in asked] == answers


@pytest.mark.parametrize(
    ("thinking", "prompt"), [(None, "?cdg"), (True, "?cdg"), (False, "?cdgh")]
)
def test_the_template_reads_whether_the_model_reasons(thinking, prompt, task):
    model = writer("a")
    end = "h" if thinking else None
    options = {"enable_thinking": thinking, "think_end_token": end}
    chosen = task(WRITES, apply_chat_template=True, **options)

    measured(chosen, model)

    assert [letters(row) for row in model.net.rows] == [prompt]
    assert chosen.protocol().get("enable_thinking") == thinking
    assert chosen.protocol().get("think_end_token") == end


@pytest.mark.parametrize(
    ("given", "prompt"),
    [(None, "?cdgh"), ({"thinking": True}, "?cdg"), ({"thinking": False}, "?cdgh")],
)
def test_a_template_reads_a_switch_of_another_name(given, prompt, task):
    model = writer("bha")
    model.tokenizer.chat_template = NAMED
    options = {"chat_template_args": given, "think_end_token": "h"}
    chosen = task(WRITES, apply_chat_template=True, **options)

    found = measured(chosen, model)

    assert [letters(row) for row in model.net.rows] == [prompt]
    assert chosen.protocol().get("chat_template_args") == given
    assert found["exact_match"].value == 1  # what precedes "h" is not scored


def test_tasks_with_other_variables_are_other_tasks(task):
    one, same, other = (
        task(WRITES, apply_chat_template=True, chat_template_args={"thinking": value})
        for value in (True, True, False)
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


@pytest.mark.parametrize(
    ("script", "score", "unfinished"),
    [
        ("bcha", 1.0, 0),  # only what follows the reasoning is the answer
        ("hbha", 1.0, 0),  # its last end counts
        ("bdcha", 1.0, 0),  # "d" ends an answer, and not the reasoning
        ("bchadb", 1.0, 0),  # the answer is cut at "d"
        ("bcb", 0.0, 1),  # cut off while it reasons
        ("a", 1.0, 1),  # without an end all of it is the answer
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_reasoning_is_not_scored(script, score, unfinished, special, task):
    model = writer(script)
    if special:  # decoding leaves special tokens out
        model.tokenizer.add_special_tokens({"additional_special_tokens": ["h"]})
    options = {"apply_chat_template": True, "enable_thinking": True}
    text = WRITES.replace("until: []", "until: [d]")
    chosen = task(text, think_end_token="h", **options)

    found = measured(chosen, model)

    assert found["exact_match"].value == score
    counted = found["unfinished_reasoning"]
    assert (counted.value, counted.n, counted.goal) == (unfinished, 1, "none")
    warned = worker.warning(list(found.values()))
    assert bool(warned) == bool(unfinished)
    assert ("1 of 1 answers end before" in warned) == bool(unfinished)


def test_a_token_may_be_given_by_its_number(task):
    options = {"apply_chat_template": True, "enable_thinking": True}
    chosen = task(WRITES, think_end_token=WORDS["h"], **options)
    assert measured(chosen, writer("bcha"))["exact_match"].value == 1


def test_a_template_that_writes_the_begin_token_gives_one(task):
    # The template writes it, and the tokenizer adds one of its own.
    for text in (CHOICE, WRITES):
        model = replace(
            spied("begin", chat_template="{{ bos_token }}" + TEMPLATE),
            net=Writer("a"),
        )
        measured(task(text, apply_chat_template=True), model)
        assert {row.count(BEGIN) for row in model.net.rows} == {1}
        assert {row[0] for row in model.net.rows} == {BEGIN}


def test_one_of_several_templates_is_used_by_its_name(task):
    templates = {"default": TEMPLATE, "tool": "ff" + TEMPLATE}
    for wanted, prompt in ((True, "?cd"), ("default", "?cd"), ("tool", "ff?cd")):
        model = writer("a")
        model.tokenizer.chat_template = templates
        chosen = task(WRITES, apply_chat_template=wanted)
        measured(chosen, model)
        assert letters(model.net.rows[0]) == prompt
        assert model.tokenizer.chat_template == templates


def test_pydoc_cloze_writes_nothing():
    with pytest.raises(BenchError, match="no effect on pydoc-cloze"):
        find("task", "pydoc-cloze").build({"max_gen_toks": 5})


def test_the_protocol_of_a_task_without_these_options_is_as_it_was(task):
    new = set(task(WRITES, temperature=0.0, seed=7).protocol())
    assert new - set(task(WRITES).protocol()) == {"temperature", "seed"}
    said = task(DRAWS, repeats=4, top_k=2, max_gen_toks=9).protocol()
    assert {k: said[k] for k in ("repeats", "top_k", "max_gen_toks")} == {
        "repeats": 4,
        "top_k": 2,
        "max_gen_toks": 9,
    }


def test_a_temperature_overrules_a_task_that_does_not_draw(task):
    for temperature, drawn in ((0.5, True), (0.0, False)):
        for text in (WRITES, DRAWS):
            model = writer("a")
            measured(task(text, temperature=temperature), model)
            asked = model.net.options[0]
            assert asked["do_sample"] is drawn
            assert asked.get("temperature") == (temperature or None)


def test_repeats_give_the_mean_and_the_spread_of_what_each_seed_gives(
    task, monkeypatch
):
    words = spied().tokenizer
    texts = ["cd", "dcc", "ab", "fa"]
    options = {"max_gen_toks": 1, "temperature": 3.0}
    model = Recorded(monkeypatch, words).model

    together = measured(task(WRITES, texts=texts, repeats=6, **options), model)
    # lm-eval's own seed of torch, and the next ones.
    alone = [
        measured(task(WRITES, texts=texts, seed=1234 + n, **options), model)
        for n in range(6)
    ]

    scores = [one["exact_match"].value for one in alone]
    assert len(set(scores)) > 1
    assert together["exact_match"].value == pytest.approx(statistics.fmean(scores))
    spread = together["exact_match_spread"]
    assert spread.value == pytest.approx(statistics.stdev(scores))
    assert (spread.n, spread.goal) == (6, "none")
    each = [one["exact_match"].values for one in alone]
    means = [statistics.fmean(draws) for draws in zip(*each, strict=True)]
    assert together["exact_match"].values == pytest.approx(means)
    error = statistics.stdev(means) / math.sqrt(4)
    assert together["exact_match"].stderr == pytest.approx(error)


def test_one_seed_gives_one_number(task, monkeypatch):
    words, options = spied().tokenizer, {"max_gen_toks": 4, "temperature": 3.0}
    model = Recorded(monkeypatch, words).model
    chosen = task(WRITES, texts=["cd", "dcc", "ab"], repeats=2, seed=5, **options)
    first = measured(chosen, model)
    torch.manual_seed(99)
    assert measured(chosen, model) == first


def test_a_metric_that_is_no_mean_of_examples_keeps_the_error_of_its_runs():
    runs = [
        [Measurement(metric="bleu,all", value=v, goal="max", stderr=e, values=[1.0, v])]
        for v, e in ((10.0, 2.0), (20.0, 4.0))
    ]
    mean, spread = generation.over_repeats(runs)
    assert (mean.metric, mean.value, mean.stderr) == ("bleu,all", 15.0, 3.0)
    assert spread.metric == "bleu_spread,all"
    assert spread.value == pytest.approx(math.sqrt(50))


FILES = {
    "none": ({}, {}, []),
    "text": ({"chat_template": "x"}, {}, ["default"]),
    "list": (
        {"chat_template": [{"name": "a", "template": "x"}, {"name": "b"}]},
        {},
        ["a", "b"],
    ),
    "file": ({}, {"chat_template.jinja": "x"}, ["default"]),
    "files": ({}, {"additional_chat_templates/tool.jinja": "x"}, ["tool"]),
}


@pytest.mark.parametrize("kind", FILES)
def test_templates_are_found_without_loading_the_tokenizer(kind, tmp_path):
    said, files, names = FILES[kind]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    (tmp_path / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert sorted(tokenizer_needs.of_folder(tmp_path).templates) == names
    (tmp_path / "tekken.json").write_text("{}")  # the template is code there
    assert tokenizer_needs.of_folder(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{", None])
def test_files_that_cannot_be_read_are_left_to_loading(text, tmp_path):
    if text is not None:
        (tmp_path / "tokenizer_config.json").write_text(text)
    assert tokenizer_needs.of_folder(tmp_path) is None


def test_saved_files_say_what_the_loaded_tokenizer_says(tmp_path):
    for number, template in enumerate((None, THINKING, {"default": "x", "tool": "y"})):
        folder = tmp_path / str(number)
        words = spied(chat_template=template).tokenizer
        words.save_pretrained(folder)
        saved = tokenizer_needs.of_folder(folder)
        assert saved == tokenizer_needs.of_tokenizer(words)

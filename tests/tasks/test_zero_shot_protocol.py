"""What the protocol of an lm-eval task says is what the network saw."""

import pytest
import torch
from spied_lm import (
    BEGIN,
    CHOICE,
    END,
    KINDS,
    TEMPLATE,
    WORDS,
    WRITING,
    measured,
    spied,
    tokenizer,
)
from transformers import AutoTokenizer

from harness.core import BenchError, NotFinite, Unsupported
from harness.registry import resolve
from tasks._lm_eval import evaluate, task_index

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.fixture
def task(task):
    """A task of a choice unless the test says another."""
    return lambda text=CHOICE, **options: task(text, **options)


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_sees_the_tokens_that_the_protocol_and_lm_eval_say(
    kind, add_bos, task, tmp_path
):
    model = spied(kind)
    chosen = task(add_bos=add_bos)
    if add_bos is None and kind in ("end", "both"):
        with pytest.raises(BenchError, match=r"appends '</s>' to every text"):
            measured(chosen, model)
        return

    measured(chosen, model)

    # The command line loads the saved tokenizer, and encodes by the same rule.
    model.tokenizer.save_pretrained(tmp_path / "saved")
    loads = {} if add_bos is None else {"add_bos_token": add_bos}
    rule = {} if add_bos is None else {"add_special_tokens": add_bos}
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved", **loads)
    begin = END if kind == "begin is end" else BEGIN
    first = {"always": True, "never": False}.get(
        chosen.protocol()["bos"], kind in ("begin", "begin is end", "rule on")
    )
    for row in model.net.rows:
        assert row == theirs.encode("cd", **rule)  # the answer's token is predicted
        assert row == [begin] * first + [WORDS["c"], WORDS["d"]]


def test_a_begin_token_that_no_rule_can_add_is_refused(task, monkeypatch):
    kept = tokenizer()
    monkeypatch.setattr(
        type(kept), "from_pretrained", classmethod(lambda cls, *a, **k: kept)
    )
    with pytest.raises(BenchError, match="puts no begin token before a text"):
        measured(task(add_bos=True), spied())


def test_an_empty_context_is_the_begin_token_or_else_the_end_token(task):
    text = CHOICE.replace("multiple_choice", "loglikelihood")
    text = text.replace("doc_to_choice: [a, b]\n", "").replace("get: 0", "get: a")
    for options, first in (({}, BEGIN), ({"bos_token": None}, END)):
        model = spied(**options)
        measured(task(text, texts=[""], add_bos=False), model)
        assert model.net.rows == [[first]]


def test_the_tokenizer_of_the_model_is_left_as_it_is(task):
    model = spied()
    before = model.tokenizer.pad_token
    measured(task(), model)
    assert before is None
    assert model.tokenizer.pad_token is None


@pytest.mark.parametrize(
    ("asked", "own", "done"),
    [(None, None, 0), (None, 2, 2), (1, None, 1), (1, 2, 1), (0, 2, 0), (0, 0, 0)],
)
def test_the_protocol_says_how_many_examples_are_taken(asked, own, done, task):
    more = "" if own is None else f"num_fewshot: {own}"
    model = spied()
    chosen = task(texts=["cd", "ce", "cf"], more=more, num_fewshot=asked)

    measured(chosen, model)

    assert chosen.protocol()["num_fewshot"] == done
    delimiters = {row.count(WORDS["h"]) for row in model.net.rows}
    assert delimiters == {done}


def test_examples_that_a_task_forbids_are_refused(task):
    with pytest.raises(BenchError, match="num_fewshot 5 has no effect"):
        task(more="num_fewshot: 0", num_fewshot=5)


def test_a_group_says_the_number_of_each_task(tmp_path, task):
    task(texts=["cd", "ce", "cf"])
    other = (tmp_path / "task.yaml").read_text().replace("letters", "more", 1)
    (tmp_path / "more.yaml").write_text(other)
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask:\n- {task: letters, num_fewshot: 2}\n- more\n"
        "aggregate_metric_list: [{metric: acc}]\n"
    )
    plugin, implied = resolve("task", str(tmp_path / "both.yaml"))
    chosen = plugin.build(implied)
    assert chosen.protocol()["num_fewshot"] == {"letters": 2, "more": 0}
    model = spied()
    measured(chosen, model)
    assert sorted({row.count(WORDS["h"]) for row in model.net.rows}) == [0, 2]


def test_lm_eval_may_not_take_other_examples_than_the_protocol_says(task, monkeypatch):
    chosen = task(texts=["cd", "ce"], more="num_fewshot: 1")
    monkeypatch.setattr(type(chosen), "shots", lambda self: {"letters": 0})
    with pytest.raises(BenchError, match="takes 1 solved examples where"):
        measured(chosen, spied())


def test_prompts_that_are_cut_are_counted(task):
    # With the answer, of which the last token is only predicted, 8 tokens are read.
    chosen = task(texts=["c" * 8, "c" * 9, "d" * 20, "c"])
    model = spied(length=8)

    found = measured(chosen, model)["truncated_prompts"]

    assert (found.value, found.n, found.goal) == (2.0, 4, "none")
    assert max(map(len, model.net.rows)) == 8
    assert measured(chosen, spied(length=20))["truncated_prompts"].value == 0


def test_solved_examples_that_make_a_prompt_too_long_are_counted(task):
    texts = ["c" * 5, "d" * 5, "e" * 5]
    assert measured(task(texts=texts), spied(length=8))["truncated_prompts"].value == 0
    found = measured(task(texts=texts, num_fewshot=1), spied(length=8))
    assert found["truncated_prompts"].value == 3


def test_prompts_to_be_continued_are_counted_one_by_one(task):
    chosen = task(WRITING, texts=["c" * 5, "c" * 6, "c"], more=3, batch_size=3)
    model = spied(length=8)

    found = measured(chosen, model)["truncated_prompts"]

    assert (found.value, found.n) == (1.0, 3)
    assert {len(row) for row in model.net.rows} == {5}


def test_only_members_with_cut_prompts_are_named_beside_a_group(tmp_path, task):
    task(texts=["c" * 9, "d"])
    short = tmp_path / "short.jsonl"
    short.write_text('{"text": "d"}')
    text = CHOICE.format(data=short, more="").replace("letters", "short", 1)
    (tmp_path / "short.yaml").write_text(text)
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [letters, short]\naggregate_metric_list: [{metric: acc}]\n"
    )
    plugin, implied = resolve("task", str(tmp_path / "both.yaml"))
    found = measured(plugin.build(implied), spied(length=8))
    counts = {k: (m.value, m.n) for k, m in found.items() if "truncated" in k}
    assert counts == {
        "truncated_prompts": (1.0, 3),
        "letters/truncated_prompts": (1.0, 2),
    }


def test_an_answer_longer_than_the_model_is_unsupported(task):
    text = CHOICE.replace("[a, b]", f"[{'a' * 9}, b]")
    with pytest.raises(Unsupported, match=r"answer of letters has 9 tokens.*reads 8"):
        measured(task(text), spied(length=8))
    with pytest.raises(Unsupported, match=r"lets the model write 8 tokens.*reads 8"):
        measured(task(WRITING, more=8), spied(length=8))


def test_a_chat_template_is_in_the_prompt_and_in_the_protocol(task):
    model = spied(chat_template=TEMPLATE)
    chosen = task(texts=["cd"], apply_chat_template=True, system_instruction="gg")

    measured(chosen, model)

    protocol = chosen.protocol()
    assert protocol["chat_template"] == "the tokenizer's own"
    assert protocol["system_instruction"] == "gg"
    assert protocol["fewshot_as_multiturn"] is True
    # "s" and "u" begin the turns; the tokenizer does not know them.
    expected = [WORDS[letter] for letter in "?gg?cd"]
    assert model.net.rows == [expected]  # once for both answers
    plain = task(texts=["cd"]).protocol()
    assert plain["chat_template"] is None
    assert plain["fewshot_as_multiturn"] is None


def test_a_chat_template_that_is_not_there_is_named(task):
    with pytest.raises(Unsupported, match="has no chat template"):
        measured(task(apply_chat_template=True), spied())
    with pytest.raises(Unsupported, match="no template called 'tool'"):
        measured(task(apply_chat_template="tool"), spied(chat_template=TEMPLATE))
    with pytest.raises(BenchError, match="needs apply_chat_template"):
        task(fewshot_as_multiturn=True)


def test_two_files_that_declare_one_task_are_refused(tmp_path, task, capfd):
    task()
    (tmp_path / "a copy.yaml").write_text((tmp_path / "task.yaml").read_text())
    task_index._own.cache_clear()
    for name in ("task.yaml", "a copy.yaml"):
        with pytest.raises(
            BenchError,
            match=r"2 files in .* declare the task 'letters': a copy.yaml, task.yaml",
        ):
            resolve("task", str(tmp_path / name))
    assert capfd.readouterr() == ("", "")


def test_a_file_that_declares_no_task_says_which_key_it_needs(tmp_path):
    (tmp_path / "no.yaml").write_text("output_type: multiple_choice\n")
    with pytest.raises(BenchError, match=r"no\.yaml declares no task of lm-eval"):
        resolve("task", str(tmp_path / "no.yaml"))


def test_local_data_that_is_not_utf8_is_refused(tmp_path, task):
    chosen = task()
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "c"}\n{"text": "\xff"}')
    with pytest.raises(BenchError, match=r"data\.jsonl, line 2: byte 0xff at column"):
        measured(chosen, spied())


def test_a_byte_order_mark_before_local_data_is_not_text(tmp_path, task):
    chosen = task()
    (tmp_path / "data.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "cd"}')
    model = spied()
    measured(chosen, model)
    assert model.net.rows == [[WORDS["c"], WORDS["d"]]]  # once for both answers


def test_a_metric_that_is_not_finite_fails():
    results = {
        "results": {"letters": {"acc,none": float("nan")}},
        "higher_is_better": {},
        "samples": {},
    }
    with pytest.raises(NotFinite, match="lm-eval gives nan as acc"):
        list(evaluate._measurements("letters", results, ()))


def test_the_global_random_generators_are_left_as_they_are(task):
    import random

    import numpy as np

    states = (random.getstate(), np.random.get_state()[1].tolist())
    before = torch.random.get_rng_state()
    measured(task(), spied())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    assert torch.equal(torch.random.get_rng_state(), before)

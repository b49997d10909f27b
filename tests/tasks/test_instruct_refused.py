"""Options of chat templates and generation that are refused before anything runs."""

import pytest
from spied_lm import CHOICE, DRAWS, NAMED, TEMPLATE, WRITES, measured, spied

from harness.core import BenchError, Unsupported
from harness.registry import find

pytestmark = pytest.mark.usefixtures("own_caches")


@pytest.mark.parametrize(
    ("options", "template", "said"),
    [
        ({"chat_template_args": {"think": True}}, NAMED, "does not read think, so"),
        (
            {"chat_template_args": {"thinking": True}},
            "thinking" + TEMPLATE,
            "does not read thinking, so that this entry",
        ),
        (
            {"enable_thinking": True, "think_end_token": "h"},
            NAMED,
            "enable_thinking, .*; it reads thinking: see chat_template_args",
        ),
    ],
)
def test_a_variable_that_the_template_does_not_read_is_refused(
    options, template, said, task
):
    chosen = task(WRITES, apply_chat_template=True, **options)
    with pytest.raises(Unsupported, match=said):
        measured(chosen, spied(chat_template=template))


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        + TEMPLATE,
    ],
)
def test_a_template_without_a_system_turn_is_refused(template, task):
    model = spied(chat_template=template)
    measured(task(CHOICE, apply_chat_template=True), model)
    chosen = task(CHOICE, apply_chat_template=True, system_instruction="gg")
    with pytest.raises(Unsupported, match="of spy has no system turn: leave"):
        measured(chosen, model)


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (WRITES, {"enable_thinking": False}, "is for chat templates: set"),
        (WRITES, {"enable_thinking": True}, "needs think_end_token"),
        (CHOICE, {"enable_thinking": True, "think_end_token": "h"}, "and letters comp"),
        (WRITES, {"chat_template_args": {"a": 1}}, "chat_template_args is for chat te"),
        (
            WRITES,
            {"chat_template_args": {}, "apply_chat_template": True},
            "names no variable: leave it out",
        ),
        (
            WRITES,
            {"chat_template_args": {"tools": []}, "apply_chat_template": True},
            "chat_template_args: tools is set by the task itself",
        ),
        (
            WRITES,
            {
                "chat_template_args": {"enable_thinking": True},
                "apply_chat_template": True,
            },
            "enable_thinking is an option of its own",
        ),
        (CHOICE, {"max_gen_toks": 5}, "max_gen_toks has no effect on letters"),
        (CHOICE, {"temperature": 1.0}, "temperature has no effect on letters"),
        (CHOICE, {"repeats": 2}, "repeats has no effect on letters"),
        (CHOICE, {"think_end_token": "h"}, "think_end_token has no effect on letters"),
        (WRITES, {"repeats": 3}, "repeats 3 has no effect where the likeliest"),
        (WRITES, {"repeats": 3, "temperature": 0.0}, "set a temperature above 0"),
        (DRAWS, {"repeats": 3, "temperature": 0.0}, "set a temperature above 0"),
        (WRITES, {"top_p": 0.5}, "top_p 0.5 has no effect"),
        (WRITES, {"top_k": 5}, "top_k 5 has no effect"),
        (WRITES, {"top_p": 0.0, "temperature": 1.0}, r"top_p 0.0 is not in \(0, 1\]"),
        (WRITES, {"top_p": 1.5, "temperature": 1.0}, r"top_p 1.5 is not in \(0, 1\]"),
        (WRITES, {"top_k": 0, "temperature": 1.0}, "top_k 0 is not 1 or more"),
        (WRITES, {"temperature": -1.0}, "temperature -1.0 is below 0"),
        (WRITES, {"temperature": "hot"}, "'hot' is not a number"),
        (WRITES, {"max_gen_toks": 0}, "max_gen_toks 0 is not 1 or more"),
        (WRITES, {"repeats": 0}, "repeats 0 is not 1 or more"),
        (WRITES, {"seed": -1}, "seed -1 is not in 0 to 4294967295"),
        (WRITES, {"seed": 2**32}, "seed 4294967296 is not in"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(text, options, said, task):
    with pytest.raises(BenchError, match=said) as refused:
        task(text, **options)
    assert len(refused.value.errors) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"apply_chat_template": True}, "has no chat template: leave apply_chat_temp"),
        ({"add_bos": True}, "add_bos: true: .* has no begin token; leave add_bos out"),
    ],
)
def test_what_a_tokenizer_lacks_is_said_when_a_grid_is_planned(
    options, said, task, tmp_path
):
    spied(bos_token=None).tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    model = find("model", "huggingface").build({"id": str(tmp_path / "model")})
    why = model.refuses_task(task(CHOICE, **options))
    assert why is not None
    with pytest.raises(Unsupported, match=said) as refused:
        measured(task(CHOICE, **options), spied(bos_token=None))
    assert why.replace(str(tmp_path / "model"), "spy") == str(refused.value)


def test_reasoning_needs_a_template_that_reads_the_option(task):
    options = {"enable_thinking": True, "think_end_token": "h"}
    chosen = task(WRITES, apply_chat_template=True, **options)
    with pytest.raises(Unsupported, match="does not read enable_thinking"):
        measured(chosen, spied(chat_template=TEMPLATE))

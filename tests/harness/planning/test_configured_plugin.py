"""One line of a grid as a plugin: what calibration may not read."""

import re
from types import SimpleNamespace

import pytest

from harness.core import BenchError
from harness.planning import lock
from harness.planning.configured_plugin import (
    UNSEEN,
    choose,
    configure,
    overlaps,
    pinned_text,
    tolerate_unseen,
    unmet,
)
from harness.toolkit import identity
from harness.toolkit.calibration import CalibrationSpec


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("some words of mine")
    own = {"name": "text_perplexity", "text": str(path)}
    items = ["pydoc-512", "pydoc-cloze", "digits", own]
    return path, [choose("task", item) for item in items]


def test_calibration_on_the_text_of_a_task_is_refused_for_each_such_task(tasks):
    path, chosen = tasks

    whole = overlaps(CalibrationSpec(text="pydoc"), chosen)
    mine = overlaps(CalibrationSpec(text=str(path)), chosen)

    assert len(whole) == 2
    assert "task pydoc-512 evaluates 'pydoc-test'" in whole[0]
    assert "task pydoc-cloze evaluates 'pydoc-test'" in whole[1]
    assert len(mine) == 1
    assert "text_perplexity" in mine[0]
    assert "overlap: allow" in mine[0]


def test_calibration_on_another_text_or_with_leave_is_accepted(tasks):
    _, chosen = tasks

    assert overlaps(CalibrationSpec(), chosen) == []
    assert overlaps(CalibrationSpec(text="pydoc", overlap="allow"), chosen) == []
    assert overlaps(CalibrationSpec(text="wikitext2-test"), [None]) == []


@pytest.mark.parametrize(
    ("item", "form"),
    [
        ({"svd": {"a": 1, "b": True}}, "write {name: svd, a: 1, b: true}"),
        ({"svd": None}, "write svd, or {name: svd, OPTION: VALUE}"),
        ({"svd": {"a": [1], "b": 1}}, "write a name, or {name: NAME, OPTION: VALUE}"),
        ({"svd": None, "a": 1}, "write a name, or {name: NAME, OPTION: VALUE}"),
        (["svd"], "write a name, or {name: NAME, OPTION: VALUE}"),
        ({"name": 3}, "write a name, or {name: NAME, OPTION: VALUE}"),
    ],
)
def test_a_wrong_item_gets_the_form_that_was_probably_meant(item, form):
    with pytest.raises(BenchError) as caught:
        configure("method", item)

    assert (
        str(caught.value)
        == f"method {item!r} is neither a name nor {{name: ...}}; {form}"
    )


def test_a_name_is_printable_and_not_longer_than_a_folder_may_be():
    with pytest.raises(BenchError, match="no method called"):
        configure("method", "x" * 200)
    for name in ("x" * 201, "a\x1b"):
        with pytest.raises(BenchError, match="is not a name"):
            configure("method", name)


def facts(name, **of):
    usual = {"kind": "causal_lm", "gives": set(), "needs": set()}
    return SimpleNamespace(name=name, facts=usual | {"kinds": {"causal_lm"}} | of)


def test_what_does_not_go_together_is_said_in_one_sentence():
    method, model = facts("m", needs={"b", "a", "c"}), facts("net", gives={"c"})
    task, other = facts("t", gives={"a"}), facts("t", kind="classifier")

    assert unmet(method, model, task) == (
        "method m needs b, which neither model net nor task t gives"
    )
    assert unmet(method, model, facts("t", gives={"a", "b"})) is None
    assert unmet(method, model, facts("t", kind="any", gives={"a", "b"})) is None
    assert unmet(method, model, other) == (
        "task t measures a classifier, and model net is a causal_lm"
    )
    images = facts("m", kinds={"detector", "classifier"})
    assert unmet(images, model, task) == (
        "method m treats a classifier or detector, not a causal_lm"
    )
    # A chain needs what its members need.
    chain = {"kinds": {"causal_lm"}, "needs": {"b"}}
    assert unmet(facts("chain"), model, task) is None
    assert "needs b," in str(unmet(facts("chain"), model, task, chain))


def test_a_text_must_have_the_content_that_is_pinned(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("some words")
    found = pinned_text(str(path), "")

    assert re.fullmatch("sha256:[0-9a-f]{16}", found)
    assert pinned_text(str(path), found) == found
    with pytest.raises(BenchError, match=found):
        pinned_text(str(path), "sha256:0123456789abcdef")


def test_what_is_not_here_is_an_error_unless_the_plan_tolerates_it(tmp_path):
    missing = str(tmp_path / "none.txt")
    with pytest.raises(BenchError, match=r"none\.txt"):
        pinned_text(missing, "")
    with tolerate_unseen() as noted:
        assert pinned_text(missing, "") == UNSEEN
        assert pinned_text(missing, "sha256:0123456789abcdef") == UNSEEN
    assert len(noted) == 1  # said once
    assert "none.txt" in noted[0]
    with pytest.raises(BenchError):
        pinned_text(missing, "")


def test_a_method_has_no_revision_and_a_task_alone_a_protocol():
    method, task = choose("method", "svd"), choose("task", "digits")

    assert (method.part.revision, method.part.protocol) == ("", "")
    assert task.part.revision
    assert task.part.protocol.startswith("{")
    assert choose("model", "mlp").part.protocol == ""


def test_a_lock_holds_models_and_tasks_to_a_revision():
    key = lock.key("task", "digits", choose("task", "digits").part.options)
    revision = choose("task", "digits").part.revision

    assert choose("task", "digits", {key: revision}).part.revision == revision
    with pytest.raises(BenchError, match="digits"):
        choose("task", "digits", {key: "another"})


def test_options_of_a_name_are_those_of_the_item():
    assert configure("method", "svd")[0] == "svd"
    name, plugin, _ = configure("method", {"chain": ["svd", "round_to_nearest"]})
    assert plugin.name == "chain"
    assert name
    with pytest.raises(BenchError, match="is neither a name"):
        configure("task", {"chain": ["digits"]})
    _, _, instance = configure("method", {"name": "round_to_nearest", "bits": 3})
    assert instance.bits == 3


def test_a_plan_can_be_remembered_where_the_content_of_all_inputs_is_known():
    def elsewhere(kind: str, name: str) -> list[str]:
        with identity.recording() as asked, tolerate_unseen():
            choose(kind, name)
        return [what for source, what in asked if source == "elsewhere"]

    assert elsewhere("method", "svd") == []
    assert elsewhere("task", "digits") == elsewhere("model", "mlp") == []
    assert elsewhere("model", "no/such") == ["model no/such"]  # of the hub


def test_a_task_measures_a_model_without_wishes_by_its_own_options():
    task = choose("task", "digits")

    assert task.measuring(choose("model", "mlp")) == task.part

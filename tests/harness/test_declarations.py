"""Whatever a plugin declares: one sentence names it and the field, and nothing runs."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness import registry
from harness.cli import _status
from harness.core import BenchError, Unsupported
from harness.declarations import HOOKS, WrongDeclaration, declared
from harness.options import NotPlain, dumps
from harness.planning import grid as grids
from harness.registry import find, method, model, task
from harness.running.failures import classify
from results.storage.store import open_store

TOYS = {"method": "toy_drop", "model": "toy", "task": "toy_sum"}
OBJECT = object()


class Mute:
    """``str`` of it raises."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


# What JSON cannot hold, or not twice in the same way -> what the error says of it.
NOT_PLAIN = {
    "set": ({"window": {1, 2}}, r"window is \{1, 2\}, a set"),
    "tensor": ({"window": torch.ones(1)}, r"window is tensor\(\[1.\]\), a Tensor"),
    "nan": ({"a": {"b": [0.5, math.nan]}}, "a.b.1 is nan, a float"),
    "infinite": ({"window": math.inf}, "window is inf, a float"),
    "numpy": ({"window": np.int64(3)}, r"window is np.int64\(3\), a int64"),
    "object": ({"window": OBJECT}, "window is <object object at .*, a object"),
    "bytes": ({"window": b"3"}, "window is b'3', a bytes"),
    "number_as_key": ({"few": {1: 2}}, r"few is \{1: 2\}, a dict"),
    "none_as_key": ({None: 2}, r"\{None: 2\}, a dict"),
    "half_a_character": ({"window": "\ud800"}, r"window is '\\ud800', a str"),
    "nul": ({"window": "a\0"}, r"window is 'a\\x00', a str"),
    "huge": ({"window": 2**64}, "window is 18446744073709551616, a int"),
}
# A hook of a task, model or method -> wrong answers, each with what the error says.
WRONG = {
    ("task", "protocol"): [
        *((value, f"protocol() is not plain data: .*{said}")
          for value, said in NOT_PLAIN.values()),
        (["window"], "protocol() is ['window'], a list; it must be a mapping"),
        (None, "protocol() is None, a NoneType; it must be a mapping"),
        ({"version": 3}, "it must be without version, which shrinkgrid adds"),
        ({"window": Mute()}, "window is an object of type Mute"),
    ],
    ("task", "fingerprint"): [
        ({"a", "b"}, "a set; it must be a text"),
        (3, "fingerprint() is 3, a int; it must be a text"),
        (None, "fingerprint() is None, a NoneType; it must be a text"),
        ("a\nb", "it must be a text of at most 1000 printable characters"),
        ("\ud800", "printable characters"),
        ("a" * 1001, "at most 1000"),
    ],
    ("task", "paths"): [("folder", "it must be several texts"), ([1], "several texts")],
    ("task", "members"): [(3, "a list of members"), ([3], "a list of members")],
    ("task", "suited"): [(3, "it must be a configured task"), (None, "a configured")],
    ("model", "family"): [(3, "it must be a text that is not empty")],
    ("model", "revision"): [(3, "it must be a text"), (OBJECT, "it must be a text")],
    ("model", "paths"): [(3, "it must be several texts")],
    ("model", "refuses"): [(True, "it must be a text"), ("", "a text that is not")],
    ("model", "refuses_task"): [(3, "it must be a text that is not empty")],
    ("model", "shape"): [((3, 4), "it must be a harness.toolkit.shape.Shape")],
    ("model", "stored_params"): [
        (-1, "a whole number"), (0.5, "a whole number"), (True, "a whole number"),
    ],
    ("method", "ratios"): [
        ((), "at least one ratio"), ((1.0,), "in [0, 1)"), (0.5, "a tuple"),
        ((math.nan,), "in [0, 1)"), (("0.5",), "in [0, 1)"),
        (np.array([0.5]), "a tuple"),
    ],
    ("method", "members"): [([None], "a list of members")],
    ("method", "facts"): [
        (None, "a mapping with ratio_of"), ({"ratio_of": "zeros"}, "a mapping with"),
    ],
}  # fmt: skip
CASES = [
    pytest.param(kind, hook, value, said, id=f"{hook}-{index}")
    for (kind, hook), wrong in WRONG.items()
    for index, (value, said) in enumerate(wrong)
]


@pytest.fixture
def change(toys: Path, monkeypatch: pytest.MonkeyPatch):
    """Give a toy another attribute."""

    def changes(kind: str, name: str, value) -> None:
        monkeypatch.setattr(find(kind, TOYS[kind]).cls, name, value, raising=False)

    return changes


def refusal(path: Path) -> str:
    """The one error of a grid."""
    with pytest.raises(BenchError) as why:
        list(grids.read(path).points())
    assert len(why.value.errors) == 1
    return why.value.errors[0]


def has(text: str, said: str) -> bool:
    """Whether a text has words, or matches a pattern with ``.*``."""
    return said in text or bool(re.search(said.replace("()", r"\(\)"), text))


@pytest.mark.parametrize(("kind", "hook", "value", "said"), CASES)
def test_a_wrong_answer_is_an_error_of_the_grid_that_names_plugin_and_field(
    change, toy_grid, kind, hook, value, said
):
    change(kind, hook, lambda *_: value)

    error = refusal(toy_grid())
    assert error.startswith(f"{kind} '{TOYS[kind]}': {hook}() ")
    assert has(error, said), error
    assert "\n" not in error


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(0), OSError(28, "full"),
                                   RuntimeError(), GeneratorExit()])  # fmt: skip
@pytest.mark.parametrize(("kind", "hook"), WRONG)
def test_a_hook_that_raises_is_an_error_of_the_grid(
    change, toy_grid, kind, hook, error
):
    def raises(*_):
        raise error

    change(kind, hook, raises)

    said = refusal(toy_grid())
    assert said.startswith(f"{kind} '{TOYS[kind]}': {hook}() raised ")
    assert type(error).__name__ in said


@pytest.mark.parametrize(
    ("kind", "hook", "value", "said"),
    [
        ("task", "text", 3, "text is 3, a int; it must be a text"),
        ("task", "by_content", "yes", "by_content is 'yes', a str; it must be True or"),
        ("model", "label", {1}, "label is {1}, a set; it must be a text"),
        ("method", "label", "a\nb", "printable characters"),
    ],
)
def test_a_wrong_attribute_is_named_too(change, toy_grid, kind, hook, value, said):
    change(kind, hook, value)

    assert said in refusal(toy_grid())


def test_a_property_that_raises_is_named_too(change, toy_grid):
    change("model", "label", property(lambda self: {}["lost"]))

    assert refusal(toy_grid()) == "model 'toy': label raised KeyError: 'lost'"


@pytest.mark.parametrize(
    ("kind", "hook"), [("model", "revision"), ("task", "protocol")]
)
def test_what_a_plugin_must_declare_is_named(change, toy_grid, monkeypatch, kind, hook):
    monkeypatch.delattr(find(kind, TOYS[kind]).cls, hook)

    assert f"{kind} '{TOYS[kind]}' has no {hook}(): it tells " in refusal(toy_grid())


def test_all_wrong_plugins_of_a_grid_are_named_at_once(change, toy_grid):
    change("task", "protocol", lambda self: {1, 2})
    change("model", "revision", lambda self: 3)

    with pytest.raises(BenchError) as why:
        grids.read(toy_grid())
    assert [one.split(":")[0] for one in why.value.errors] == [
        "model 'toy'",
        "task 'toy_sum'",
    ]


def test_what_the_plugin_says_itself_stays_as_it_is(change, toy_grid):
    def missing(self):
        raise BenchError("the data is not here: fetch it")

    change("task", "fingerprint", missing)
    assert refusal(toy_grid()) == "the data is not here: fetch it"

    def refuses(self):
        raise Unsupported("no such width")

    change("task", "fingerprint", refuses)
    assert refusal(toy_grid()) == "task 'toy_sum': no such width"


def test_an_option_whose_default_is_not_plain_is_named(toys, toy_grid, monkeypatch):
    cls = find("task", "toy_sum").cls
    monkeypatch.setattr(cls.__dataclass_fields__["by"], "default", torch.ones(2))

    assert refusal(toy_grid()).startswith("task 'toy_sum': its options raised Runtime")


def test_a_plugin_that_cannot_be_made_is_named():
    @dataclass
    class Breaks:
        def __post_init__(self):
            raise TypeError("no such thing")

    made = registry.Plugin(kind="task", name="x", cls=Breaks, version=1)
    with pytest.raises(WrongDeclaration) as why:
        made.build({})
    assert str(why.value) == (
        "task 'x': making it with its options raised TypeError: no such thing"
    )


@pytest.mark.parametrize("name", ["training", "place"])
def test_hooks_that_a_trial_asks_are_checked_too(name):
    plugin = SimpleNamespace(**{name: lambda: {"host": {1}}})

    with pytest.raises(WrongDeclaration, match=rf"task 'x': {name}\(\) is "):
        declared("task 'x'", plugin, name)
    assert classify(WrongDeclaration("wrong")).error_class == "bug"


def test_every_hook_has_a_wrong_answer_here():
    elsewhere = {"claim", "names", "label", "text", "by_content", "at"}
    in_trials = {"training", "place"}
    assert {hook for _, hook in WRONG} | elsewhere | in_trials == HOOKS.keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"needs": "linears"}, "needs is several texts"),
        ({"kinds": ["clasifier"]}, "Did you mean 'classifier'"),
        ({"ratio_of": "weight"}, "ratio_of is one of weights"),
        ({"tolerance": math.nan}, "tolerance is a finite number; it is nan, a"),
        ({"stochastic": "no"}, "stochastic is True or False; it is 'no', a str"),
        ({"version": "2"}, "its version is '2', a str; it must be a whole number"),
    ],
)
def test_a_wrong_declaration_of_a_method_is_refused_when_it_is_imported(given, said):
    with pytest.raises(WrongDeclaration, match="method 'x': ") as why:
        method("x", **{"ratio_of": "zeros", **given})
    assert said in str(why.value)


def test_wrong_declarations_of_tasks_and_models_are_refused_when_imported():
    with pytest.raises(WrongDeclaration, match=r"task 'x': .*kind is one of causal_lm"):
        task("x", kind="image")
    with pytest.raises(WrongDeclaration, match=r"model 'x': .*gives is several texts"):
        model("x", kind="classifier", gives="linears")
    with pytest.raises(WrongDeclaration, match=r"task 'a\\nb': its name is"):
        task("a\nb", kind="any")


def test_a_default_that_is_not_plain_is_named_when_it_is_imported():
    class Wide:
        width: float = math.nan

    with pytest.raises(WrongDeclaration) as why:
        task("x", kind="any")(Wide)
    assert "task 'x': an option is not plain data: width is nan, a float" in str(
        why.value
    )


def test_a_family_whose_claim_is_wrong_is_named(toys, monkeypatch):
    fallback = next(
        p for p in registry.discover("model").values() if p.facts.get("fallback")
    )
    monkeypatch.setattr(fallback.cls, "claim", staticmethod(lambda name: 3))

    with pytest.raises(WrongDeclaration, match=r"claim\(\) is 3, a int; it must be"):
        registry.resolve("model", "no-such-model")


def test_a_plugin_that_exits_when_it_is_imported_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import sys\nsys.exit(0)\n")

    with pytest.raises(BenchError, match=r"mine\.py does not import: SystemExit: 0"):
        registry.plugins_of_file(path)


@pytest.mark.parametrize("verb", ["plan", "run", "status", "prepare"])
def test_a_command_ends_with_one_message_and_status_2(
    change, toy_grid, tmp_path, capsys, verb
):
    change("task", "protocol", lambda self: {"window": {1, 2}})
    open_store(tmp_path / "store", create=True)
    words = [verb, str(toy_grid())]
    words += [] if verb == "prepare" else ["--store", str(tmp_path / "store")]

    assert _status(words) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert "task 'toy_sum': protocol() is not plain data: window is {1, 2}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("value", "said"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_canonical_json_has_plain_values_only(value, said):
    with pytest.raises(NotPlain, match=said):
        dumps(value)

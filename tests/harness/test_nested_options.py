"""Options that are dataclasses themselves: given in part, written with one meaning."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.options import build, canonical
from harness.registry import find


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Nested options."""

    rate: float = 0.1
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A plugin whose own default is not the default of its recipe's class."""

    inner: Inner = field(default_factory=lambda: Inner(rate=0.5, steps=3))
    maybe: Inner | None = None


def test_an_option_given_in_part_keeps_the_rest_of_the_plugins_default():
    made = build("method", "trained", Trained, {"inner": {"steps": 7}})

    assert made.inner == Inner(rate=0.5, steps=7)


def test_a_part_of_an_option_that_is_none_by_default_starts_from_its_class():
    made = build("method", "trained", Trained, {"maybe": {"steps": 7}})

    assert made.maybe == Inner(steps=7)


@given(st.sampled_from([0.1, 0.5, 2.0]), st.integers(1, 4))
def test_a_nested_option_is_written_so_that_it_has_one_meaning(rate, steps):
    made = Trained(inner=Inner(rate=rate, steps=steps))
    text = canonical(made)

    assert build("m", "trained", Trained, text) == made
    # Also a reader that fills in the defaults of the class reads the same.
    assert made.inner in (Inner(**text.get("inner", {})), Trained().inner)


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("model", "gru_seq2seq", {"recipe": {"epochs": 2}}),
        ("method", "dropback", {"recipe": {"epochs": 2}}),
        ("method", "branchynet", {"train": {"epochs": 2}}),
        ("method", "class_exclusion", {"train": {"epochs": 2}}),
        ("method", "variational_dropout", {"train": {"epochs": 2}}),
    ],
)
def test_a_recipe_in_part_changes_only_what_it_names(kind, name, options):
    plugin = find(kind, name)
    (key,) = options
    changed = replace(getattr(plugin.build({}), key), epochs=2)

    assert getattr(plugin.build(options), key) == changed

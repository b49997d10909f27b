"""Options: what YAML may give, what is refused, and their canonical form."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import BenchError
from harness.options import build, canonical, dumps


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Nested options."""

    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Plug:
    """Options of every kind."""

    count: int
    share: float = 0.5
    name: str = "a"
    mode: Literal["fast", "slow"] = "fast"
    sizes: tuple[int, ...] = (1, 2)
    flag: bool = False
    maybe: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_options_take_what_yaml_gives():
    made = build(
        "method",
        "plug",
        Plug,
        {"count": 3, "share": 1, "sizes": [4, 5], "maybe": None, "inner": {"rate": 2}},
    )

    assert made == Plug(count=3, share=1.0, sizes=(4, 5), inner=Inner(rate=2.0))
    assert isinstance(made.share, float)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "needs the option 'count'"),
        ({"count": 1.5}, "1.5 is not a whole number"),
        ({"count": True}, "True is not a whole number"),
        ({"count": 1, "share": float("nan")}, "not a finite number"),
        ({"count": 1, "mode": "quick"}, "'quick' is not one of 'fast', 'slow'"),
        ({"count": 1, "sizes": [1, "x"]}, "'x' is not a whole number"),
        ({"count": 1, "flag": 1}, "1 is not true or false"),
        ({"count": 1, "naem": "b"}, "Did you mean 'name'?"),
        ({"count": 1, "inner": {"rat": 1}}, "Did you mean 'rate'?"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(options, reason):
    with pytest.raises(BenchError) as caught:
        build("method", "plug", Plug, options)

    assert reason in str(caught.value)


@given(
    st.integers(-5, 5), st.floats(-1e6, 1e6), st.lists(st.integers(0, 9), max_size=4)
)
def test_canonical_options_build_the_same_plugin(count, share, sizes):
    made = build("m", "p", Plug, {"count": count, "share": share, "sizes": sizes})

    assert build("m", "p", Plug, {"count": count, **canonical(made)}) == made


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert dumps({"b": 1, "a": {"d": 2, "c": 3}}) == dumps(
        {"a": {"c": 3, "d": 2}, "b": 1}
    )

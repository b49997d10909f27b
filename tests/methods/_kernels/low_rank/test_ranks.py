"""How many directions a share of weights leaves."""

from hypothesis import given
from hypothesis import strategies as st

from methods._kernels.low_rank.ranks import kept, rank_for

dims = st.integers(1, 4096)
ratios = st.floats(0, 0.99)


@given(out=dims, inner=dims, ratio=ratios)
def test_two_factors_never_exceed_the_budget_and_one_rank_more_would(out, inner, ratio):
    rank = rank_for(out, inner, ratio)
    budget = kept(out * inner, ratio)
    assert rank * (out + inner) <= budget < (rank + 1) * (out + inner)


@given(out=dims, inner=dims, pair=st.tuples(ratios, ratios))
def test_the_rank_never_grows_with_the_ratio(out, inner, pair):
    mild, harsh = sorted(pair)
    assert rank_for(out, inner, harsh) <= rank_for(out, inner, mild)

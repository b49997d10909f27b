import pytest
from tiny_llm import tiny

from harness.toolkit.roles import block_of
from methods._kernels.low_rank.factors import checked_rank, linears
from methods._kernels.low_rank.groups import groups_across_blocks, groups_within_blocks
from methods._kernels.low_rank.ranks import rank_for


def roles(model, group):
    return tuple(model.role(name) for name in group.names)


@pytest.mark.parametrize(
    ("join", "together"),
    [
        ("none", set()),
        ("qk", {("query", "key"), ("gate", "up")}),
        ("qkv", {("query", "key", "value"), ("gate", "up")}),
    ],
)
def test_matrices_of_one_block_are_joined_by_role(join, together):
    model = tiny("llama")

    found = groups_within_blocks(model, join)

    assert sorted(n for g in found for n in g.names) == sorted(linears(model))
    joined = [g for g in found if len(g.names) > 1]
    assert {roles(model, g) for g in joined} == together
    assert len(joined) == 3 * len(together)
    for group in joined:
        assert len({block_of(name) for name in group.names}) == 1
        assert group.once


@pytest.mark.parametrize(("size", "lengths"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3])])
def test_matrices_of_one_role_are_joined_over_adjacent_blocks(size, lengths):
    model = tiny("llama")

    found = groups_across_blocks(model, size=size, shared=["query"])

    shared = [g for g in found if "query" in roles(model, g)]
    assert [len(g.names) for g in shared] == lengths
    assert [block_of(n) for g in shared for n in g.names] == [0, 1, 2]
    assert not any(g.once for g in shared)
    alone = [g for g in found if "query" not in roles(model, g)]
    assert all(len(g.names) == 1 and g.once for g in alone)
    assert sorted(n for g in found for n in g.names) == sorted(linears(model))


def test_the_rank_of_a_smaller_last_group_is_that_of_a_whole_one():
    # Basis Sharing gives the last group, with fewer blocks, the rank of the others.
    model = tiny("llama")
    modules = linears(model)
    groups = groups_across_blocks(model, size=2, shared=["down"])
    last = next(g for g in groups if roles(model, g) == ("down",) and not g.once)
    out, inner = modules[last.names[0]].weight.shape

    assert (out, inner) == (24, 40)
    assert checked_rank(modules, last, 0.2) == rank_for(out, inner, 0.2)
    assert checked_rank(modules, last, 0.2, members=2) == rank_for(2 * out, inner, 0.2)
    # Never above the full rank of what the group has.
    assert checked_rank(modules, last, 0.0, members=9) == 24

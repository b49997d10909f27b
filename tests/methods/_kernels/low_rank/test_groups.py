import pytest
from tiny_llm import tiny

from harness.core import Unsupported
from harness.toolkit.roles import block_of
from methods._kernels.low_rank.factors import checked_rank, linears
from methods._kernels.low_rank.groups import (
    groups_across_blocks,
    groups_across_experts,
    groups_within_blocks,
)
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


def test_of_a_mixture_each_expert_joins_its_own_gate_and_up():
    found = groups_within_blocks(tiny("qwen3_moe"), "qk")

    joined = [group.names for group in found if "experts" in group.names[0]]
    path = "model.layers.0.mlp.experts.3"
    assert (f"{path}.gate_proj", f"{path}.up_proj") in joined
    assert len([names for names in joined if len(names) == 2]) == 3 * 4
    assert max(map(len, joined)) == 2


def test_across_blocks_experts_of_the_same_number_are_joined():
    model = tiny("qwen3_moe")

    found = groups_across_blocks(model, size=3, shared=["up"])

    ups = [group.names for group in found if len(group.names) > 1]
    paths = "model.layers.{}.mlp.experts.{}.up_proj"
    assert ups == [tuple(paths.format(b, n) for b in range(3)) for n in range(4)]
    assert sorted(n for g in found for n in g.names) == sorted(linears(model))


def test_across_experts_one_role_of_a_block_is_joined():
    model = tiny("qwen3_moe")

    found = groups_across_experts(model, shared=["gate", "up", "query"])

    joined = [group for group in found if len(group.names) > 1]
    assert [len(group.names) for group in joined] == [4] * 6  # gate and up, 3 blocks
    assert {roles(model, group) for group in joined} == {("gate",) * 4, ("up",) * 4}
    assert all(len({block_of(n) for n in group.names}) == 1 for group in joined)
    assert not any(group.once for group in joined)
    assert sorted(n for g in found for n in g.names) == sorted(linears(model))


def test_across_experts_a_dense_model_is_refused():
    with pytest.raises(Unsupported, match="no experts that could share a basis"):
        groups_across_experts(tiny("llama"), shared=["up"])

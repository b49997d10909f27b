import math

import pytest
import torch
from tiny_llm import FAMILIES, context, logits, tiny

from harness.core import Unsupported
from harness.registry import find
from methods._kernels.low_rank.factors import Group, linears, matrix
from methods.d_rank import Member, divided, effective_rank, move, rounded

A, B, C = Group(("a",)), Group(("b",)), Group(("c",))


def build(**options):
    return find("method", "d_rank").build(options)


def fit_and_compress(ctx, name, ratio, **options):
    method = find("method", name).build(options)
    return method.compress(method.fit(ctx.model, ctx), ratio, ctx).eval()


def member(information, out=10, inner=10, blocks=1):
    return Member(out=out, inner=inner, information=information, blocks=blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_with_one_group_a_role_and_nothing_moved_it_is_svd_llm(family, tmp_path):
    ctx = context(tiny(family, num_hidden_layers=1), tmp_path)

    one = fit_and_compress(ctx, "svd_llm", 0.4)
    two = fit_and_compress(ctx, "d_rank", 0.4, beta=0.0)

    assert torch.equal(logits(one), logits(two))


def by_loops(ctx, ratio, beta):
    """The paper's equations 1, 2, 7 and 9 to 12, role by role, for two blocks a group.

    Singular values come from the Cholesky factor and a full SVD; ranks are not rounded.
    """
    calibration, modules = ctx.calibration(), linears(ctx.model)
    ranks = {}
    for part in ("q_proj", "k_proj", "v_proj"):
        effective, costs, size = [], [], 0
        for first in (0, 2):
            names = [f"model.layers.{i}.self_attn.{part}" for i in (first, first + 1)]
            gram = sum(calibration.gram(name).double() for name in names)
            weight = torch.cat([matrix(modules[name]).double() for name in names])
            scaled = weight @ torch.linalg.cholesky(gram)
            values = torch.linalg.svdvals(scaled) ** 2
            entropy = 0.0
            for value in values.tolist():
                share = value / float(values.sum())
                entropy -= share * math.log(share)
            effective.append(math.exp(entropy))
            costs.append(sum(weight.shape))
            size += weight.numel()
        total = sum(math.sqrt(r * w) for r, w in zip(effective, costs, strict=True))
        ranks[part] = [
            (1 - ratio) * size / total * math.sqrt(r) / math.sqrt(w)
            for r, w in zip(effective, costs, strict=True)
        ]
    moved = beta / 2 * (sum(ranks["q_proj"]) + sum(ranks["k_proj"]))
    for part in ("q_proj", "k_proj"):
        ranks[part] = [(1 - beta) * k for k in ranks[part]]
    ranks["v_proj"] = [k + moved for k in ranks["v_proj"]]
    return ranks


def test_the_ranks_are_those_of_the_papers_equations(tmp_path):
    heads = {"num_hidden_layers": 4, "num_key_value_heads": 4}
    ctx = context(tiny("llama", **heads), tmp_path)
    method = build(beta=0.25)
    fitted = method.fit(ctx.model, ctx)

    found = method.ranks(fitted, 0.6, ctx.model)

    for part, expected in by_loops(ctx, 0.6, 0.25).items():
        own = [found[g] for g in found if g.names[0].endswith(part)]
        assert len(own) == 2
        for rank, exact in zip(own, expected, strict=True):
            assert math.floor(exact) <= rank <= math.floor(exact) + 1, part


def test_the_division_has_the_smallest_error_that_the_budget_allows():
    # The problem is convex: every exchange of weights between two groups raises
    # sum R / k, the error of the paper's equation 3.
    members = [member(8.0, 40, 30), member(2.0, 20, 30), member(5.0, 30, 30)]
    shares = divided(members, 900)

    def error(weights):
        pairs = zip(members, weights, strict=True)
        return sum(m.information * m.cost / w for m, w in pairs)

    assert sum(shares) == pytest.approx(900)
    for one in range(3):
        for other in range(3):
            if one != other:
                changed = list(shares)
                changed[one] += 1
                changed[other] -= 1
                assert error(changed) > error(shares)


def test_a_group_gets_rank_one_at_least_and_never_more_than_its_dense_form():
    # 100 weights each and 20 a rank: at most rank 4 is useful. By the equation the
    # first would get 100 * 9 / (9 + 1 + 1) = 81.8 weights.
    shares = divided([member(81.0), member(1.0), member(1.0)], 100)
    assert shares == pytest.approx([60, 20, 20])

    # Of 170 weights it would get 139, and can use 80; the others share the rest.
    shares = divided([member(81.0), member(1.0), member(1.0)], 170)
    assert shares == pytest.approx([80, 45, 45])


def test_what_values_cannot_use_goes_back():
    # 30 % of 40 and of 60 weights are 30; the value group has room for 20 of them, and
    # the other 10 return in the same proportion: 12 * 1/3 and 18 * 1/3.
    roles = {"query": {A: member(1.0)}, "key": {B: member(1.0)}}
    roles["value"] = {C: member(1.0)}
    weights = {A: 40.0, B: 60.0, C: 60.0}

    move(weights, roles, 0.3)

    assert weights == pytest.approx({A: 32.0, B: 48.0, C: 80.0})


def test_what_rounding_leaves_buys_ranks_for_the_groups_of_most_information():
    # 39 and 31 weights at 20 a rank: 1 and 1, and 30 left buy one rank more.
    ranks = rounded({A: member(1.0), B: member(2.0)}, {A: 39.0, B: 31.0})

    assert ranks == {A: 1, B: 2}


def test_one_direction_has_effective_rank_one():
    assert effective_rank(torch.tensor([7.0, 0.0, 0.0])) == pytest.approx(1.0)


def test_grouped_queries_are_not_shared_across_blocks_unless_told(tmp_path):
    ctx = context(tiny("llama"), tmp_path)

    assert all(len(g.names) == 1 for g in build().fit(ctx.model, ctx))
    assert any(len(g.names) == 2 for g in build(group_size=2).fit(ctx.model, ctx))


def test_moving_weights_to_values_of_another_shape_keeps_the_budget(tmp_path):
    ctx = context(tiny("llama"), tmp_path)
    sizes = []
    for beta in (0.0, 0.4):
        method = build(beta=beta)
        ranks = method.ranks(method.fit(ctx.model, ctx), 0.5, ctx.model)
        modules = linears(ctx.model)
        cost = {g: sum(matrix(modules[g.names[0]]).shape) for g in ranks}
        attention = [g for g in ranks if g.names[0][-6:] in ("q_proj", "k_proj")]
        sizes.append(sum(ranks[g] * cost[g] for g in attention))
        values = [g for g in ranks if g.names[0].endswith("v_proj")]
        sizes.append(sum(ranks[g] * cost[g] for g in values))
    budget = 0.5 * sum(matrix(m).numel() for n, m in modules.items() if n[-6:] in PARTS)
    assert sizes[2] < sizes[0]
    assert sizes[3] > sizes[1]
    assert sizes[2] + sizes[3] <= budget


PARTS = ("q_proj", "k_proj", "v_proj")


def test_the_released_fallback_keeps_equal_ranks_where_they_lose_less(tmp_path):
    ctx = context(tiny("gpt2"), tmp_path)
    method = build(fallback="released", group_size=1)
    fitted = method.fit(ctx.model, ctx)

    released = method.ranks(fitted, 0.5, ctx.model)
    dynamic = build(group_size=1).ranks(fitted, 0.5, ctx.model)

    def error(ranks, role):
        own = [g for g in ranks if ctx.model.role(g.names[0]) == role]
        return sum(fitted[g].error(ranks[g]) ** 2 for g in own)

    for role in ("output", "up", "down"):
        assert error(released, role) <= error(dynamic, role) * (1 + 1e-12)


def test_a_role_that_cannot_keep_rank_one_is_refused(tmp_path):
    ctx = context(tiny("llama"), tmp_path)

    with pytest.raises(Unsupported, match="role query, and rank 1 takes 144"):
        fit_and_compress(ctx, "d_rank", 0.95)


@pytest.mark.parametrize("options", [{"group_size": 0}, {"beta": 1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(Exception, match=r"below 1|not in"):
        build(**options)


def test_the_update_fits_the_coefficients_and_keeps_the_size(tmp_path):
    ctx = context(tiny("llama"), tmp_path)

    plain = fit_and_compress(ctx, "d_rank", 0.4)
    updated = fit_and_compress(ctx, "d_rank", 0.4, update=True)

    shapes = [[p.shape for p in net.parameters()] for net in (plain, updated)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(logits(plain), logits(updated))

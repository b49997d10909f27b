"""The theory that the kernels stand on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harness.core import Model, NotFinite, Unsupported
from methods._kernels.low_rank.budget import allocate, offer
from methods._kernels.low_rank.factors import Group, checked_rank, factorize, linears
from methods._kernels.low_rank.pivots import pivoted_cost
from methods._kernels.low_rank.ranks import kept, pair_cost
from methods._kernels.low_rank.refit import refit
from methods._kernels.low_rank.whitening import raised

SHAPES = [(6, 9), (9, 6), (7, 7)]


def problem(shape, seed=0, tokens=40):
    rng = torch.Generator().manual_seed(seed)
    out, inner = shape
    weight = torch.randn(out, inner, generator=rng, dtype=torch.float64)
    x = torch.randn(tokens, inner, generator=rng, dtype=torch.float64)
    x = x * torch.logspace(0, 2, inner, dtype=torch.float64)  # outlying channels
    return weight, x, x.T @ x


def output_error(weight, approximation, x):
    return torch.linalg.matrix_norm(x @ (weight - approximation).T)


@pytest.mark.parametrize("shape", SHAPES)
def test_factors_equal_a_direct_svd_of_the_weight(shape):
    # Second implementation: torch.linalg.svd; Eckart-Young for the error.
    weight, _, _ = problem(shape)
    u, sigma, v = torch.linalg.svd(weight, full_matrices=False)
    factors = factorize(weight)
    for rank in range(1, 7):
        left, right = factors.truncate(rank, weight)
        best = u[:, :rank] * sigma[:rank] @ v[:rank]
        torch.testing.assert_close(left @ right, best, rtol=0, atol=1e-10)
        assert factors.error(rank) == pytest.approx(
            float(sigma[rank:].square().sum().sqrt()), abs=1e-6
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whitened_error_is_the_root_of_the_dropped_squared_singular_values(shape):
    # W S with S S^T the Gram matrix, as in arXiv:2403.07378, by Cholesky and SVD.
    weight, x, gram = problem(shape)
    sigma = torch.linalg.svdvals(weight @ torch.linalg.cholesky(gram))
    factors = factorize(weight, gram)
    for rank in range(1, 6):
        left, right = factors.truncate(rank, weight)
        expected = float(sigma[rank:].square().sum().sqrt())
        assert float(output_error(weight, left @ right, x)) == pytest.approx(expected)
        assert factors.error(rank) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_whitening_never_loses_more_than_plain_svd_on_its_inputs(shape):
    weight, x, gram = problem(shape)
    for rank in range(1, 6):
        plain = torch.mm(*factorize(weight).truncate(rank, weight))
        whitened = torch.mm(*factorize(weight, gram).truncate(rank, weight))
        assert output_error(weight, whitened, x) <= output_error(weight, plain, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_singular_gram_matrix_is_exact(shape):
    # Three tokens span three directions: rank 3 reproduces every output.
    weight, x, gram = problem(shape, tokens=3)
    left, right = factorize(weight, gram).truncate(3, weight)
    assert output_error(weight, left @ right, x) < 1e-6 * output_error(weight, 0, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_empty_gram_matrix_is_refused(shape):
    weight, _, gram = problem(shape)
    with pytest.raises(Unsupported, match="all zero: calibrate on another text"):
        factorize(weight, torch.zeros_like(gram))


@pytest.mark.parametrize("shape", SHAPES)
def test_curvature_weighs_the_errors_of_the_outputs(shape):
    # Second implementation: SVD of H^(1/2) W G^(1/2) by Cholesky factors.
    weight, _, gram = problem(shape)
    out = shape[0]
    g = torch.randn(50, out, generator=torch.Generator().manual_seed(3)).double()
    costs = g.T @ g
    given = costs if out <= shape[1] else weight.T @ costs @ weight
    factors = factorize(weight, gram, given)
    outer, inner = torch.linalg.cholesky(costs), torch.linalg.cholesky(gram)
    sigma = torch.linalg.svdvals(outer.T @ weight @ inner)
    torch.testing.assert_close(
        factors.energy[:6], sigma[:6].square(), rtol=1e-6, atol=1e-6
    )
    left, right = factors.truncate(3, weight)
    lost = torch.linalg.matrix_norm(outer.T @ (weight - left @ right) @ inner)
    assert float(lost) == pytest.approx(float(sigma[3:].square().sum().sqrt()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_diagonal_metric_is_the_same_as_its_matrix(shape):
    weight, _, _ = problem(shape)
    scale = torch.linspace(0.1, 3, shape[1], dtype=torch.float64)
    one = torch.mm(*factorize(weight, scale).truncate(2, weight))
    two = torch.mm(*factorize(weight, torch.diag(scale)).truncate(2, weight))
    torch.testing.assert_close(one, two)


def test_joint_factorisation_of_one_member_equals_the_single_one():
    weight, _, gram = problem((9, 6))
    joint = factorize(torch.cat([weight]), gram).truncate(3, weight)
    single = factorize(weight, gram).truncate(3, weight)
    assert torch.equal(joint[0] @ joint[1], single[0] @ single[1])


@pytest.mark.parametrize("tokens", [40, 3])
def test_the_refit_never_raises_the_error_and_projects(tokens):
    weight, x, gram = problem((8, 6), tokens=tokens)
    rng = torch.Generator().manual_seed(5)
    left = torch.randn(8, 4, generator=rng, dtype=torch.float64)
    right = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    fitted = refit(weight, right, gram)

    residual = x @ (weight - fitted @ right).T
    scale = torch.linalg.matrix_norm(x @ weight.T)
    assert torch.linalg.matrix_norm(residual) <= output_error(weight, left @ right, x)
    # Normal equations: what is left is orthogonal to what the right factor passes on.
    assert float((residual.T @ (x @ right.T)).abs().max()) < 1e-6 * float(scale**2)


def test_a_refit_to_the_own_statistics_changes_nothing():
    weight, _, gram = problem((8, 6))
    left, right = factorize(weight, gram).truncate(3, weight)
    torch.testing.assert_close(refit(weight, right, gram) @ right, left @ right)


def test_a_metric_that_is_not_finite_is_refused():
    weight, _, gram = problem((6, 6))
    gram[2, 3] = math.nan
    with pytest.raises(NotFinite, match="statistics of the input"):
        factorize(weight, gram)


def test_cholesky_compatibility_raises_only_what_has_no_factor():
    good = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert raised(good, 1e-6) is good
    bad = torch.diag(torch.tensor([2.0, -0.5], dtype=torch.float64))
    smallest = torch.linalg.eigvalsh(raised(bad, 1e-6))[0]
    assert float(smallest) == pytest.approx(1e-6)


@pytest.mark.parametrize("cost", [pair_cost, pivoted_cost])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), pair=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)))
def test_one_budget_is_kept_nearly_spent_and_shrinks_with_the_ratio(cost, seed, pair):
    rng = torch.Generator().manual_seed(seed)
    shapes = [(12, 8), (8, 16), (10, 10)]
    draws = [torch.rand(min(s), generator=rng).sort().values.flip(0) for s in shapes]
    offers = [offer(str(s), s, e, cost) for s, e in zip(shapes, draws, strict=True)]
    total = sum(out * inner for out, inner in shapes)
    spent = []
    for ratio in sorted(pair):
        ranks = allocate(offers, kept(total, ratio))
        sizes = [
            out * inner if rank is None else cost(out, inner, rank)
            for (out, inner), rank in zip(shapes, ranks, strict=True)
        ]
        spent.append(sum(sizes))
        assert kept(total, ratio) - 24 * 3 <= spent[-1] <= kept(total, ratio)
    assert spent[1] <= spent[0]


def test_water_filling_finds_the_best_ranks_of_all():
    # Brute force over every pair of ranks of two groups.
    rng = torch.Generator().manual_seed(2)
    energies = [torch.rand(5, generator=rng).sort(descending=True)[0] for _ in range(2)]
    energies[1] *= 3
    offers = [offer(str(i), (40, 5), e, pair_cost) for i, e in enumerate(energies)]
    ranks = allocate(offers, 200)  # 200 of 400: four ranks of 45 weights
    best = min(
        (
            (float(energies[0][a:].sum() + energies[1][b:].sum()), (a, b))
            for a in range(1, 5)
            for b in range(1, 5)
            if 45 * (a + b) <= 200
        ),
    )
    assert tuple(ranks) == best[1]


class Wrapped(nn.Module):
    """Holds its matrix elsewhere, as a compressed layer does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def named(roles: dict[str, str], **modules: nn.Module) -> Model:
    """A model of some modules with the given roles."""
    net = nn.ModuleDict(modules)
    return Model(name="m", net=net, kind="classifier", roles=roles, example=dict)


def test_only_matrices_with_a_wanted_role_are_compressed_in_the_order_of_the_net():
    layers = {name: nn.Linear(2, 2) for name in "abc"}
    model = named({"a": "query", "b": "down", "c": "embedding"}, **layers)

    assert list(linears(model)) == ["a", "b"]
    assert linears(model, ["down"]) == {"b": layers["b"]}


def test_a_network_without_matrices_of_the_roles_is_unsupported():
    model = named({"a": "query"}, a=nn.Linear(2, 2))

    with pytest.raises(Unsupported, match="m has no matrix with a role among down, up"):
        linears(model, ["up", "down"])


def test_shared_and_compressed_matrices_are_unsupported():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    roles = {"a": "query", "b": "key"}

    with pytest.raises(Unsupported, match="b and a share one weight"):
        linears(named(roles, a=one, b=other))
    with pytest.raises(Unsupported, match="b is a Wrapped, not a plain matrix"):
        linears(named(roles, a=one, b=Wrapped()))


def test_a_group_of_a_few_blocks_has_the_rank_of_a_full_one():
    # (1 - 0.5) out in / (out + in) with 8 outputs a member and 6 inputs.
    modules = {"a": nn.Linear(6, 8)}
    last = Group(names=("a",), once=False)
    siblings = Group(names=("a",), once=True)

    assert checked_rank(modules, last, 0.5) == 1  # 24 / 14 = 1.7
    assert checked_rank(modules, last, 0.5, members=4) == 2  # 96 / 38 = 2.5
    assert checked_rank(modules, siblings, 0.5, members=4) == 1

"""The choice of rows, beside that of SciPy's QR decomposition with column pivoting."""

import pytest
import torch
from scipy.linalg import qr
from torch import nn

from harness.core import NotFinite
from methods._kernels.low_rank.factors import Group
from methods._kernels.low_rank.pivots import (
    LARGEST,
    Pivoted,
    install_pivoted,
    pivoted_cost,
    pivots,
)


def _normal(out, rank):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(out, rank, generator=rng, dtype=torch.float64)


def _orthonormal(out, rank):
    return torch.linalg.qr(_normal(out, rank)).Q


def _graded(out, rank):
    return _orthonormal(out, rank) * torch.logspace(0, -8, rank, dtype=torch.float64)


def _smooth(out, rank):
    angles = torch.linspace(0, 3, out, dtype=torch.float64)[:, None]
    return torch.cos(angles * torch.arange(rank))


def _growing(out, rank):
    # Wilkinson's matrix, for which partial pivoting gives coefficients of 2^(rank - 1).
    square = torch.eye(rank).double() - torch.ones(rank, rank).double().tril(-1)
    rest = -torch.ones(out - rank, rank).double()
    return torch.cat([square, rest])


FACTORS = [_normal, _orthonormal, _graded, _smooth, _growing]


@pytest.mark.parametrize("shape", [(9, 1), (9, 5), (9, 9), (120, 40)])
@pytest.mark.parametrize("make", FACTORS)
def test_pivots_express_every_row_by_rows_of_its_own(make, shape):
    left = make(*shape)
    rows, terms = pivots(left)
    # The coefficients of Wilkinson's matrix begin at 2^39, which costs digits.
    torch.testing.assert_close(terms @ left[rows], left, rtol=0, atol=1e-10)
    assert torch.equal(terms[rows], torch.eye(shape[1], dtype=torch.float64))
    assert len(set(rows.tolist())) == shape[1]
    assert float(terms.abs().max()) <= LARGEST


@pytest.mark.parametrize("make", FACTORS)
def test_the_rows_are_as_independent_as_those_of_a_pivoted_qr(make):
    left = make(200, 60)
    _, order = qr(left.numpy().T, mode="r", pivoting=True)
    theirs = torch.linalg.svdvals(left[torch.from_numpy(order[:60]).long()])[-1]
    ours = torch.linalg.svdvals(left[pivots(left)[0]])[-1]
    # The least singular value of the chosen rows bounds what rounding can do.
    assert ours > theirs / 3


def test_pivots_of_a_factor_with_dependent_columns_are_exact():
    left = torch.arange(12.0).view(6, 2).double()
    left = torch.cat([left, left[:, :1]], 1)  # rank 2 in three columns
    rows, terms = pivots(left)
    torch.testing.assert_close(terms @ left[rows], left)
    assert float(terms.abs().max()) <= LARGEST


def test_a_factor_of_zeros_has_rows_too():
    rows, terms = pivots(torch.zeros(5, 2))
    assert len(set(rows.tolist())) == 2
    assert torch.isfinite(terms).all()


def test_coefficients_beyond_float64_are_refused():
    with pytest.raises(NotFinite, match="coefficients of the rows"):
        pivots(_growing(1300, 1200))


def two(dtype=torch.float32):
    """Two layers that read one input, of five and three outputs, and their factors."""
    torch.manual_seed(0)
    layers = {"a": nn.Linear(4, 5), "b": nn.Linear(4, 3, bias=False)}
    rng = torch.Generator().manual_seed(2)
    left = torch.randn(8, 2, generator=rng, dtype=torch.float64)
    right = torch.randn(2, 4, generator=rng, dtype=torch.float64)
    return nn.ModuleDict(layers).to(dtype), left, right


def test_pivoted_layers_compute_the_product_of_the_factors():
    net, left, right = two()
    bias = net["a"].bias.detach().clone()
    install_pivoted(net, Group(names=("a", "b")), left, right)
    x = torch.randn(2, 3, 4)

    whole = x.double() @ (left @ right).T
    torch.testing.assert_close(net["a"](x), whole[..., :5].float() + bias)
    torch.testing.assert_close(net["b"](x), whole[..., 5:].float())
    assert net["a"].right is net["b"].right  # computed once
    mixed = [net[name].mix.out_features for name in "ab"]
    assert sum(mixed) == 8 - 2  # two outputs of all are rows themselves
    stored = sum(p.numel() for p in net.parameters()) - 5
    positions = sum(m.weights()["order"].numel() for m in net.values())
    assert stored + positions == pivoted_cost(8, 4, 2)
    assert set(net["a"].weights()) == {"order", "bias"}
    assert set(net["b"].weights()) == {"order"}


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_pivoted_layer_is_rebuilt_from_its_specification(name):
    net, left, right = two()
    install_pivoted(net, Group(names=("a", "b")), left, right)

    fresh = Pivoted(**net[name].spec())
    fresh.load_state_dict(net[name].state_dict())

    x = torch.randn(3, 4)
    assert torch.equal(fresh(x), net[name](x))


def test_a_layer_all_of_whose_outputs_are_rows_mixes_none():
    net = nn.ModuleDict({"a": nn.Linear(4, 2)})
    rows = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).double()
    install_pivoted(net, Group(names=("a",)), rows, torch.eye(2, 4).double())

    assert net["a"].mix.out_features == 0
    x = torch.randn(3, 4)
    bias = net["a"].bias
    torch.testing.assert_close(net["a"](x), x[:, :2] @ rows.float().T + bias)


@pytest.mark.parametrize("which", ["left", "right", "product"])
def test_factors_that_a_layer_cannot_store_are_refused_by_name(which):
    net, left, right = two(torch.float16)
    if which == "product":
        left, right = left * 1e3, right * 1e3  # either is within float16
    else:
        (left if which == "left" else right)[0, 0] = torch.nan

    with pytest.raises(NotFinite, match="a factor of a and 1 more is not finite"):
        install_pivoted(net, Group(names=("a", "b")), left, right)

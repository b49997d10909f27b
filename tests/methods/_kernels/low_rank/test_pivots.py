"""The choice of rows, beside that of SciPy's QR decomposition with column pivoting."""

import pytest
import torch
from scipy.linalg import qr

from harness.core import NotFinite
from methods._kernels.low_rank.pivots import LARGEST, pivots


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

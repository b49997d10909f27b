"""Eigenvectors that are refined from float32, on spectra that are known."""

import pytest
import torch

from harness.toolkit import devices
from methods._kernels.low_rank.factors import factorize
from methods._kernels.low_rank.spectra import psd_roots, refined_eigh, roots, spectrum

SIZE = 60
ROUNDING = 1e-14  # of the largest eigenvalue


def _random(out, inner, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(out, inner, generator=rng, dtype=torch.float64)


def _with(values):
    turn = torch.linalg.qr(_random(len(values), len(values))).Q
    product = (turn * values) @ turn.T
    return (product + product.T) / 2


def _floats(*parts):
    return torch.cat([torch.as_tensor(p, dtype=torch.float64).view(-1) for p in parts])


SPECTRA = {
    "apart": torch.linspace(1, 2, SIZE, dtype=torch.float64),
    "of both signs": torch.linspace(-1, 1, SIZE, dtype=torch.float64),
    # float32 sees the first seven digits only.
    "of sixteen digits": torch.logspace(0, -15, SIZE, dtype=torch.float64),
    "beyond the range of float32": torch.logspace(60, 20, SIZE, dtype=torch.float64),
    "equal": torch.ones(SIZE, dtype=torch.float64),
    "zero": torch.zeros(SIZE, dtype=torch.float64),
    "close": _floats(torch.ones(20), [1 + 1e-9] * 20, torch.zeros(20)),
    "of one": torch.ones(1, dtype=torch.float64),
}


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
def test_refined_vectors_are_those_of_float64(values):
    matrix = _with(values)
    found, vectors = refined_eigh(matrix)
    size = float(values.abs().max())
    close = {"rtol": 0, "atol": ROUNDING * size}
    torch.testing.assert_close(found, values.sort().values, **close)
    torch.testing.assert_close(matrix @ vectors, vectors * found, **close)
    unit = torch.eye(len(values), dtype=torch.float64)
    torch.testing.assert_close(vectors.T @ vectors, unit, rtol=0, atol=1e-13)


def test_small_eigenvalues_have_the_digits_that_float64_gives_them():
    values = torch.logspace(0, -10, SIZE, dtype=torch.float64)
    found, _ = refined_eigh(_with(values))
    # Rounding moves each by 1e-16 of the largest, which is 1e-6 of the smallest;
    # float32 alone would be wrong by a thousand times its size.
    torch.testing.assert_close(found.flip(0), values, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
@pytest.mark.parametrize("costs", [False, True])
def test_factors_on_a_device_of_slow_float64_are_the_same(shape, costs, monkeypatch):
    weight = _random(*shape)
    x = _random(200, shape[1], 1) * torch.logspace(0, 3, shape[1], dtype=torch.float64)
    curvature = None
    if costs:
        g = _random(200, shape[0], 2)
        curvature = g.T @ g if shape[0] <= shape[1] else weight.T @ (g.T @ g) @ weight
    fast = factorize(weight, x.T @ x, curvature)
    monkeypatch.setattr(devices, "slow_float64", lambda device: True)
    monkeypatch.setattr(torch.linalg, "eigh", _in_float32(torch.linalg.eigh))
    slow = factorize(weight, x.T @ x, curvature)
    torch.testing.assert_close(slow.energy, fast.energy, rtol=1e-8, atol=0)
    for rank in (1, 10, 39):
        one, two = (torch.mm(*f.truncate(rank, weight)) for f in (fast, slow))
        torch.testing.assert_close(one, two, rtol=0, atol=1e-8)


def _in_float32(eigh):
    def checked(matrix):
        assert matrix.dtype == torch.float32
        return eigh(matrix)

    return checked


@pytest.mark.parametrize(
    ("capability", "slow"),
    [((8, 0), False), ((9, 0), False), ((8, 6), True), ((8, 9), True), ((12, 0), True)],
)
def test_which_devices_are_slow_in_float64(capability, slow, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.slow_float64(torch.device("cuda")) is slow
    assert not devices.slow_float64(torch.device("cpu"))


def test_eigenvalues_come_largest_first_and_not_below_zero():
    values, vectors = spectrum(_with(_floats([3.0, -1e-18, 5.0])))
    torch.testing.assert_close(values, _floats([5.0, 3.0, 0.0]))
    assert float(values[-1]) >= 0
    assert vectors.shape == (3, 3)


def test_roots_multiply_to_the_moment_and_to_the_unit():
    moment = _with(torch.linspace(1, 4, 8, dtype=torch.float64))
    root, inverse = psd_roots(moment)
    torch.testing.assert_close(root @ root, moment)
    torch.testing.assert_close(root @ inverse, torch.eye(8, dtype=torch.float64))


def test_the_inverse_root_of_a_singular_moment_is_bounded():
    # Cholesky decomposes a tenth of these, with a pivot that is rounding error.
    for seed in range(60):
        x = torch.randn(48, 47, generator=torch.Generator().manual_seed(seed)).double()
        gram = x @ x.T
        _, inverse = roots(gram, gram)
        _, least = psd_roots(gram)
        assert float(inverse.norm()) < 1.5 * float(least.norm())


def test_the_root_of_a_well_conditioned_moment_is_triangular_and_exact():
    # By Cholesky, which costs a tenth of an eigendecomposition.
    moment = _with(torch.linspace(1, 2, SIZE, dtype=torch.float64))

    root, inverse = roots(moment, torch.zeros((), dtype=torch.float32))

    assert torch.equal(root, root.tril())
    torch.testing.assert_close(root @ root.T, moment)
    eye = torch.eye(SIZE, dtype=torch.float64)
    torch.testing.assert_close(root @ inverse, eye, rtol=0, atol=1e-10)

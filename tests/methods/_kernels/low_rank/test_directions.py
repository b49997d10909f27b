"""Common directions of subspaces: hand-worked cases and a second implementation."""

import pytest
import torch

from methods._kernels.low_rank.directions import (
    Directions,
    ExactDirections,
    completed,
)


def subspace(seed, rows=2, width=6):
    draw = torch.Generator().manual_seed(seed)
    made = torch.randn(width, rows, generator=draw, dtype=torch.float64)
    return torch.linalg.qr(made).Q.T


def projection(basis):
    return basis.T @ basis


@pytest.mark.parametrize("make", [Directions, ExactDirections])
def test_the_direction_that_most_windows_have_comes_first(make):
    # Axis 2 is in all three subspaces, axis 0 in two, axes 1 and 3 in one and none.
    axes = torch.eye(4, dtype=torch.float64)
    found = make(2)
    for pair in ([2, 0], [2, 1], [2, 0]):
        found.add(axes[pair])

    torch.testing.assert_close(found.basis().abs(), axes[[2, 0]])


def test_incremental_is_exact_while_every_direction_is_kept():
    one, two = Directions(6), ExactDirections(6)
    for seed in range(4):
        one.add(subspace(seed))
        two.add(subspace(seed))

    signs = (one.basis() * two.basis()).sum(1).sign()
    torch.testing.assert_close(one.basis(), signs[:, None] * two.basis())


def test_incremental_with_few_directions_agrees_with_a_plain_loop():
    found, kept = Directions(2), torch.zeros(0, 6, dtype=torch.float64)
    for seed in range(4):
        rows = subspace(seed)
        found.add(rows)
        # Second implementation: the eigenvectors of the sum of outer products.
        moment = sum(torch.outer(row, row) for row in [*kept, *rows])
        values, vectors = torch.linalg.eigh(moment)
        kept = (values[-2:].sqrt() * vectors[:, -2:]).T

    expected = projection(kept / kept.norm(dim=1, keepdim=True))
    torch.testing.assert_close(projection(found.basis()), expected)


def test_centred_is_the_pca_of_all_rows_while_every_direction_is_kept():
    found, parts = Directions(6, centred=True), [subspace(seed) for seed in range(4)]
    for rows in parts:
        found.add(rows)

    rows = torch.cat(parts)
    vectors = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh
    torch.testing.assert_close(projection(found.basis()), projection(vectors))
    for i, row in enumerate(found.basis()):
        assert abs(float(row @ vectors[i])) == pytest.approx(1)


def test_a_basis_with_too_few_directions_gets_the_strongest_of_the_rest():
    # W = diag(5, 4, 3); the text gave axis 2 alone: 5 is the strongest of the rest.
    weight = torch.diag(torch.tensor([5.0, 4.0, 3.0], dtype=torch.float64))
    axes = torch.eye(3, dtype=torch.float64)

    torch.testing.assert_close(
        projection(completed(axes[[2]], weight, 2)), projection(axes[[2, 0]])
    )
    torch.testing.assert_close(
        projection(completed(None, weight, 2)), projection(axes[[0, 1]])
    )
    assert completed(axes, weight, 3) is axes


@pytest.mark.parametrize("make", [Directions, ExactDirections])
def test_nothing_added_is_no_basis(make):
    assert make(2).basis() is None

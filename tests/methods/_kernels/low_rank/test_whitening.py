"""The Gram matrices under which methods decompose: sums by site, computed once."""

import torch
from fake_device import FakeDevices

from methods._kernels.low_rank.factors import Group
from methods._kernels.low_rank.whitening import whitened


class Statistics:
    """A calibration of two sites; it counts how often a matrix is read."""

    tokens = torch.zeros(2, 5)

    def __init__(self) -> None:
        self.grams = {"a": torch.diag(torch.tensor([4.0, 0.0])), "b": torch.eye(2)}
        self.read: list[str] = []

    def site_of(self, layer: str) -> str:
        return {"query": "a", "key": "a", "up": "b"}[layer]

    def gram(self, site: str) -> torch.Tensor:
        self.read.append(site)
        return self.grams[site]


def test_matrices_of_one_site_share_one_gram_matrix():
    seen = Statistics()
    gram = whitened(seen, "eigh", 0.0)

    query, key, up = (gram(Group((name,))) for name in ("query", "key", "up"))

    assert seen.read == ["a", "b"]
    assert key is query
    assert torch.equal(up, torch.eye(2, dtype=torch.float64))


def test_a_group_over_two_sites_reads_their_sum():
    gram = whitened(Statistics(), "eigh", 0.0)

    total = gram(Group(("query", "key", "up"), once=False))

    assert torch.equal(total, torch.tensor([[5.0, 0.0], [0.0, 1.0]]).double())


def test_a_singular_gram_matrix_is_raised_to_the_jitter_on_the_sum_over_tokens():
    gram = whitened(Statistics(), "cholesky", 0.5)

    # 10 tokens: the sum is diag(40, 0), and its smallest eigenvalue becomes 0.5.
    wanted = torch.tensor([[40.5, 0.0], [0.0, 0.5]]).double()
    torch.testing.assert_close(gram(Group(("query",))), wanted)


def test_a_matrix_is_raised_on_the_device_by_one_read_of_the_host():
    wanted = whitened(Statistics(), "cholesky", 0.5)(Group(("query",)))

    with FakeDevices() as fake:
        (device,) = fake.devices
        gram = whitened(Statistics(), "cholesky", 0.5, device)(Group(("query",)))
        # Whether the decomposition failed; the matrix itself stays on the device.
        assert fake.reads == 1
        assert gram.device == device
        assert torch.equal(gram.cpu(), wanted)

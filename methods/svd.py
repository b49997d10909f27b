"""Truncated SVD of every matrix; the data-free baseline (arXiv:1404.0736)."""

from __future__ import annotations

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@method("svd", ratio_of="weights", needs={"linears"})
class Svd:
    """Two thin layers for each linear one, with ``1 - ratio`` of its weights."""

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Factorise each matrix once; every ratio truncates the same factors."""
        return factorize_groups(model, [Group((name,)) for name in linears(model)])

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        return truncate_groups(fitted, ratio, ctx)

"""Truncated SVD of every matrix; the data-free baseline (arXiv:1404.0736)."""

from __future__ import annotations

from torch import nn

from harness.core import Context, Model
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@method("svd", ratio_of="weights", needs={"linears"})
class Svd:
    """Replaces each weight matrix by the product of two thin ones, without any data.

    Singular value decomposition writes a weight W of shape ``(out, in)`` as
    ``U Sigma V^T``, with the singular values on the diagonal of Sigma in falling order.
    The first k of them give the nearest matrix of rank k in the Frobenius norm (Eckart
    and Young 1936): ``W_k = U_k Sigma_k V_k^T``. The two layers are ``L = U_k`` and
    ``R = Sigma_k V_k^T``, and the rank is
    ``k = floor((1 - ratio) out in / (out + in))`` for every matrix, so that both
    factors together store ``1 - ratio`` of its weights. Embeddings, norms, biases and
    the language-model head stay as they are.

    It is the baseline of the papers on low rank (for convolutions arXiv:1404.0736), and
    it has no options. Their code splits Sigma evenly between the factors, which gives
    the same product.
    """

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Decompose each matrix once; every ratio truncates the same factors."""
        return factorize_groups(model, [Group((name,)) for name in linears(model)])

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every matrix at the rank that the ratio leaves."""
        return truncate_groups(fitted, ratio, ctx)

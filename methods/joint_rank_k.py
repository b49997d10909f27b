"""Joint rank-k approximation, data-free (arXiv:2402.16319); reconstructed."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from harness.core import Context, Measurement, Model
from harness.registry import find, method
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix
from methods._kernels.low_rank.groups import groups_within_blocks
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@method("joint_rank_k", ratio_of="weights", needs={"linears"}, kinds={"causal_lm"})
class JointRankK:
    """Query with key, and gate with up, decomposed jointly: one input factor for both.

    Reconstructed: neither code nor the paper's method section could be read. Known are
    the joint SVD of matrices that read the same input, these two pairs, and that it
    needs no data. What becomes of the other matrices is not known: see ``single``.

    Args:
        extra_groups: ``qkv`` joins the value matrix to query and key.
        single: Whether matrices outside of the groups are truncated alone (``svd``) or
            stay ``dense``; the ratio is of the matrices that are truncated.
        whiten: Decompose under the Gram matrix of the input, from calibration. Exactly
            optimal for the summed output error, since members see the same input.
    """

    extra_groups: Literal["none", "qkv"] = "none"
    single: Literal["svd", "dense"] = "svd"
    whiten: bool = False

    def facts(self) -> dict[str, Any]:
        """Calibration is needed for whitening only."""
        facts = dict(find("method", "joint_rank_k").facts)
        extra = {"calibration"} if self.whiten else set()
        return {**facts, "needs": facts["needs"] | extra}

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Factorise each group once; every ratio truncates the same factors."""
        join: Literal["qk", "qkv"] = "qkv" if self.extra_groups == "qkv" else "qk"
        groups = groups_within_blocks(model, join)
        if self.single == "dense":
            groups = [group for group in groups if len(group.names) > 1]

        def gram(group: Group) -> Tensor | None:
            return ctx.calibration().gram(group.names[0]) if self.whiten else None

        return factorize_groups(model, groups, gram)

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every group at the rank that the ratio leaves."""
        net = truncate_groups(fitted, ratio, ctx)
        if self.single == "dense":  # the engine would count matrices left alone
            ctx.record(_achieved(fitted, net, ctx))
        return net


def _achieved(
    fitted: dict[Group, Factors], net: nn.Module, ctx: Context
) -> Measurement:
    modules = linears(ctx.model)
    names = [name for group in fitted for name in group.names]
    before = sum(matrix(modules[name]).numel() for name in names)
    weights = {
        id(value): value.numel()
        for name in names
        for key, value in net.get_submodule(name).named_parameters()
        if not key.endswith("bias")
    }
    value = 1 - sum(weights.values()) / before if before else 0.0
    return Measurement(metric="achieved_ratio", value=value)

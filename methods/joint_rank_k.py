"""Joint rank-k approximation, data-free (arXiv:2402.16319); reconstructed."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from harness.core import Context, Measurement, Model, Unsupported
from harness.registry import find, method
from harness.toolkit.model_size import ratio_base
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix
from methods._kernels.low_rank.groups import groups_within_blocks
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@method(
    "joint_rank_k",
    ratio_of="weights",
    needs={"linears"},
    kinds={"causal_lm"},
    version=2,
)
class JointRankK:
    """Matrices that read the same input are decomposed together and share a factor.

    The weights ``W_1, W_2`` of shapes ``(out_1, in)`` and ``(out_2, in)`` are stacked
    to ``W`` of shape ``(out, in)`` with ``out = out_1 + out_2``. Its truncated SVD
    ``W_k = U_k Sigma_k V_k^T`` gives the common input factor ``R = Sigma_k V_k^T`` and
    the output factors ``L_1, L_2``, the rows of ``U_k`` that belong to each matrix. The
    product ``R x`` is computed once for both. The rank is
    ``k = floor((1 - ratio) out in / (out + in))``.

    By default query is joined with key, and gate with up; all other matrices are
    decomposed alone; and no data is read.

    The paper is arXiv:2402.16319. This is a reconstruction: no code was released, and
    the method section could not be read. What is known is the joint SVD of matrices
    that read the same input, the two pairs, and that no data is needed. How the paper
    treats the other matrices is not known: see ``single``.

    Args:
        extra_groups: ``qkv`` joins the value matrix with query and key; ``none`` does
            not.
        single: Matrices outside the groups are truncated alone (``svd``) or stay
            ``dense``. The ratio is a share of all block weights in both cases, so that
            with ``dense`` the groups lose more.
        whiten: Decompose ``W S`` instead of W, with ``S S^T = mean(x x^T)`` over the
            calibration inputs x. This is the best approximation of the outputs, since
            all members of a group read the same x.
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
        """Decompose each group once; every ratio truncates the same factors."""
        join: Literal["qk", "qkv"] = "qkv" if self.extra_groups == "qkv" else "qk"
        groups = groups_within_blocks(model, join)
        # Without factors a matrix is not touched by `truncate_groups`.
        if self.single == "dense":
            groups = [group for group in groups if len(group.names) > 1]

        def gram(group: Group) -> Tensor | None:
            return ctx.calibration().gram(group.names[0]) if self.whiten else None

        return factorize_groups(model, groups, gram)

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every group at the rank that the ratio leaves.

        Args:
            fitted: From ``fit``; not changed.
            ratio: The share of all block weights to remove, in [0, 1).
            ctx: Gives the dense network; records ``coverage`` where matrices outside
                the groups stay dense.

        Returns:
            The compressed network.

        Raises:
            Unsupported: If the groups alone cannot lose as many weights.
        """
        if self.single == "svd":
            return truncate_groups(fitted, ratio, ctx)
        share = _share(fitted, ctx.model)
        ctx.record(Measurement(metric="coverage", value=share))
        # The other matrices stay whole: the groups lose the removed weights of all.
        within = ratio / share
        if within >= 1:
            raise Unsupported(
                f"ratio {ratio} is more than the {share:.3f} of the block "
                "weights that the groups hold; use single: svd"
            )
        return truncate_groups(fitted, within, ctx)


def _share(fitted: dict[Group, Factors], model: Model) -> float:
    """The share of all block weights, with a role or without, that the groups hold."""
    modules = linears(model)
    treated = [name for group in fitted for name in group.names]
    held = sum(matrix(modules[name]).numel() for name in treated)
    if not held:
        raise Unsupported(
            f"{model.name} has no two matrices to decompose jointly; use single: svd"
        )
    return held / ratio_base(model)

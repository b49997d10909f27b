"""Activation-aware SVD with its sensitivity-based rank search (arXiv:2312.05821)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from harness.core import Context, Model, Unsupported
from harness.registry import method
from harness.toolkit.blockwise import stream
from harness.toolkit.saved_model import replace
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix, stacked
from methods._kernels.low_rank.installed import install
from methods._kernels.low_rank.ranks import kept
from methods._kernels.low_rank.uniform import factorize_groups, truncate_groups


@dataclass(frozen=True, slots=True)
class Fitted:
    """The factors, and the calibration loss with a single matrix truncated.

    Args:
        factors: The factors of every matrix.
        losses: (matrix, share kept) -> loss in nats per token; empty without the
            search.
    """

    factors: dict[Group, Factors]
    losses: Mapping[tuple[str, float], float]


@method(
    "asvd",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
    tolerance=0.1,
)
class Asvd:
    """SVD that is more exact for large input channels, with a rank for each matrix.

    With ``S = diag(s)`` and ``s_j = mean(|x_j|)^alpha`` over the calibration inputs x
    of a weight W, the SVD of ``W S = U Sigma V^T`` is truncated to rank k:
    ``W_k = U_k Sigma_k V_k^T S^-1``. The ranks come from a search: the calibration loss
    is measured with one matrix alone truncated to one kept share, for each matrix and
    each share. The pairs are then accepted in the order of their loss, the smallest
    first, until the network is within the budget; each matrix gets the smallest share
    that was accepted for it, and a matrix without one stays dense.

    By default alpha is 0.5, the search tries the kept shares 0.1 to 0.9 in steps of
    0.1, and it measures the loss of 32 calibration windows.

    The paper is arXiv:2312.05821. Differences from the released code
    (hahnyuan/ASVD4LLM at 8630427): the SVD is exact, not randomised; the language-model
    head is neither compressed nor counted; the budget counts the integer ranks, not the
    nominal shares; a matrix that cannot be decomposed is an error, where the released
    code puts a random one in its place.

    Args:
        alpha: Power of the mean absolute input.
        search: Whether to search; if not, every matrix gets the same ratio.
        keep: Shares of the weights of one matrix that the search tries, in (0, 1).
        search_samples: Number of calibration windows whose loss the search measures.
    """

    alpha: float = 0.5
    search: bool = True
    keep: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    search_samples: int = 32

    def __post_init__(self) -> None:
        """Check the shares and the number of windows.

        Raises:
            ValueError: If an option is out of its range.
        """
        if not self.keep or not all(0 < share < 1 for share in self.keep):
            raise ValueError(
                f"keep {list(self.keep)}: give shares between 0 and 1, such as 0.5"
            )
        if self.search_samples < 1:
            raise ValueError(f"search_samples {self.search_samples} is below 1")

    def fit(self, model: Model, ctx: Context) -> Fitted:
        """Decompose each matrix, and measure the loss at each kept share of it."""
        found = ctx.calibration()

        def scale(group: Group) -> Tensor:
            # 1e-6 as in the released code, so that a dead channel stays invertible.
            size: Tensor = found.mean_abs(group.names[0]).double() ** self.alpha + 1e-6
            # `factorize_groups` takes the Gram matrix S S^T, here its diagonal: (in,).
            return size.square()

        groups = [Group((name,)) for name in linears(model)]
        factors = factorize_groups(model, groups, scale)
        if not self.search:
            return Fitted(factors, {})
        return Fitted(factors, self._losses(model, factors, ctx))

    def compress(self, fitted: Fitted, ratio: float, ctx: Context) -> nn.Module:
        """The network at the searched ranks, or with one ratio for all matrices."""
        if not self.search or ratio == 0:
            return truncate_groups(fitted.factors, ratio, ctx)
        net, modules = ctx.dense(), linears(ctx.model)
        sizes = {name: tuple(matrix(m).shape) for name, m in modules.items()}
        shares = searched(fitted.losses, sizes, ratio)
        for group, factors in fitted.factors.items():
            # A matrix without an accepted truncation stays dense.
            if group.names[0] in shares:
                weight = stacked(modules, group)
                rank = share_rank(weight.shape, shares[group.names[0]])
                install(net, group, *factors.truncate(rank, weight))
        return net

    def _losses(
        self, model: Model, factors: dict[Group, Factors], ctx: Context
    ) -> dict[tuple[str, float], float]:
        """The loss with one matrix truncated; the blocks before it run only once."""
        modules, net = linears(model), ctx.dense()
        running = stream(model, ctx.calibration().tokens[: self.search_samples])
        losses: dict[tuple[str, float], float] = {}
        for index, (path, block) in enumerate(running):
            for group, found in factors.items():
                name = group.names[0]
                if not name.startswith(f"{path}."):
                    continue
                weight, dense = stacked(modules, group), net.get_submodule(name)
                # One change at a time: truncate, measure from this block on, put the
                # dense matrix back. For L blocks of m matrices that is m |keep| (L + 1)
                # / 2 passes of the network.
                for share in self.keep:
                    rank = share_rank(weight.shape, share)
                    install(net, group, *found.truncate(rank, weight))
                    losses[name, share] = running.loss(net, index)
                    replace(net, name, dense)
            running.advance(index, block)
        return losses


def share_rank(shape: Sequence[int], share: float) -> int:
    """The rank whose factors store at most ``share`` of the weights; at least 1."""
    out, inner = shape
    return max(1, kept(out * inner, 1 - share) // (out + inner))


def searched(
    losses: Mapping[tuple[str, float], float],
    sizes: Mapping[str, Sequence[int]],
    ratio: float,
) -> dict[str, float]:
    """Accepts truncations in the order of their loss, until the budget is kept.

    Args:
        losses: (matrix, share) -> loss with that matrix alone at that share.
        sizes: Matrix -> shape, ``(out, in)``.
        ratio: The share of all weights to remove, in [0, 1).

    Returns:
        Matrix -> kept share; matrices that are missing stay dense.

    Raises:
        Unsupported: If all matrices at their smallest share exceed the budget.
    """
    # Ties: the milder truncation first, then by name, so that the result does not
    # depend on the order of the dictionary.
    mildest = sorted(losses, key=lambda item: (losses[item], -item[1], item[0]))
    total = sum(out * inner for out, inner in sizes.values())
    budget = kept(total, ratio)
    shares: dict[str, float] = {}
    spent = total
    for name, share in mildest:
        if spent <= budget:
            break
        # A milder truncation of a matrix that was accepted harsher already changes
        # nothing.
        if share < shares.get(name, 1.0):
            spent += _weights(sizes[name], share)
            spent -= _weights(sizes[name], shares.get(name))
            shares[name] = share
    if spent > budget:
        raise Unsupported(
            f"ratio {ratio} is beyond the smallest share {min(s for _, s in losses)} "
            "that the search tries: give `keep` smaller ones"
        )
    return shares


def _weights(shape: Sequence[int], share: float | None) -> int:
    out, inner = shape
    return out * inner if share is None else share_rank(shape, share) * (out + inner)

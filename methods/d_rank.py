"""D-Rank: ranks by the effective rank of whitened weights (arXiv:2509.25622)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from harness.core import Context, Model, Unsupported
from harness.registry import method
from methods._kernels.low_rank.factors import Factors, Group, linears, matrix
from methods._kernels.low_rank.groups import groups_across_blocks
from methods._kernels.low_rank.ranks import kept, rank_for
from methods._kernels.low_rank.refit import pooled_update
from methods._kernels.low_rank.uniform import factorize_groups, truncate_to
from methods._kernels.low_rank.whitening import Whitening, whitened

ATTENTION = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Member:
    """A group of matrices in the division of a budget.

    Args:
        out: Outputs of all its matrices together.
        inner: Inputs, which all its matrices have in common.
        information: Effective rank R of its whitened weight, from 1 to the full rank.
        blocks: Number of matrices, one from each block.
    """

    out: int
    inner: int
    information: float
    blocks: int

    @property
    def cost(self) -> int:
        """Weights that one rank stores."""
        return self.out + self.inner

    @property
    def most(self) -> int:
        """The highest rank that stores less than the dense group."""
        # One weight less than the dense group at least: with as many it would lose for
        # nothing.
        return max(1, (self.out * self.inner - 1) // self.cost)


@method(
    "d_rank",
    ratio_of="weights",
    needs={"linears", "calibration"},
    kinds={"causal_lm"},
)
class DRank:
    """Basis sharing whose ranks follow the effective rank of each group.

    Groups of n adjacent blocks share a basis as in ``basis_sharing``. With the singular
    values sigma_i of a group's whitened weight ``W S`` and
    ``p_i = sigma_i^2 / sum_j sigma_j^2``, its effective rank is
    ``R = exp(-sum_i p_i log p_i)``: about the number of directions that carry its
    energy. All groups of one role share the budget that the ratio leaves this role,
    and ``sum_g R_g / k_g`` is minimised, which gives ranks in proportion to the root of
    R over the cost: ``k_g = B sqrt(R_g / w_g) / sum_j sqrt(R_j w_j)``, with the budget
    B in weights and ``w_g = in + n out`` the weights of one rank. Then the share
    ``beta`` of the weights of all queries and keys moves to the values, the same number
    to each block, since values have far higher effective ranks. (The paper moves
    ranks. Weights are the same where the three have one shape, and keep the budget
    where they do not, as in its code for grouped-query attention.)

    By default two blocks share, one alone in models with grouped-query attention;
    beta is 0.3, the best for groups of two at ratios 0.2 and 0.3 in the paper's table
    5; output and down projections are never shared. Ranks are rounded down, and what
    this leaves of a role's budget buys single ranks, for the groups with the largest
    ``R / w`` first. A rank is at least 1 and never stores more than the dense group;
    what values cannot use goes back to queries and keys. A model whose three
    projections are fused moves nothing.

    Differences from the released code (Rainbow0427/D_rank at 0ef4a69, for LLaMA): it
    uses the effective ranks of output, up and down projections only if they give a
    lower truncation error than equal ranks, and never those of gate projections
    (``fallback: released``); its beta is 0.2. The paper refits coefficients to the
    inputs of the compressed network from ratio 0.4 on; the released scripts do not
    call that function (``update``).

    Args:
        group_size: Number of adjacent blocks that share a basis; None for 2, or 1 in
            models with fewer key outputs than query outputs.
        shared: Roles that share a basis; the others are decomposed alone.
        beta: Share of the weights of query and key that move to value, in [0, 1).
        fallback: ``released`` keeps equal ranks where these lose less, as above.
        update: Fit the coefficients to the inputs of the compressed network, with Gram
            matrices summed over the group.
        whitening: How the Gram matrix is decomposed: ``eigh`` is exact for every one;
            ``cholesky``, with ``jitter`` where it fails, is what the released code
            does.
        jitter: The smallest eigenvalue after a failed Cholesky decomposition, on the
            sum over all tokens; for ``cholesky`` only.
    """

    group_size: int | None = None
    shared: tuple[str, ...] = ("query", "key", "value", "qkv", "gate", "up")
    beta: float = 0.3
    fallback: Literal["none", "released"] = "none"
    update: bool = False
    whitening: Whitening = "eigh"
    jitter: float = 7e-6

    def __post_init__(self) -> None:
        """Check the size of a group and the share that moves.

        Raises:
            ValueError: If an option is out of its range.
        """
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} is below 1")
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta {self.beta} is not in [0, 1)")

    def fit(self, model: Model, ctx: Context) -> dict[Group, Factors]:
        """Decompose each group once; every ratio truncates the same factors."""
        size = self.group_size or (1 if _grouped_queries(model) else 2)
        groups = groups_across_blocks(model, size=size, shared=self.shared)
        return factorize_groups(
            model,
            groups,
            whitened(ctx.calibration(), self.whitening, self.jitter, ctx.device),
        )

    def compress(
        self, fitted: dict[Group, Factors], ratio: float, ctx: Context
    ) -> nn.Module:
        """The network with every group at its own rank."""
        if ratio == 0:
            return ctx.dense()
        net = truncate_to(fitted, self.ranks(fitted, ratio, ctx.model), ctx)
        if self.update:
            pooled_update(net, ctx, fitted)
        return net

    def ranks(
        self, fitted: Mapping[Group, Factors], ratio: float, model: Model
    ) -> dict[Group, int]:
        """The rank of each group.

        Args:
            fitted: From ``fit``; not changed.
            ratio: The share of weights to remove, in [0, 1).
            model: Gives the roles and shapes of the matrices.

        Returns:
            Group -> rank.

        Raises:
            Unsupported: If rank 1 in each group of a role is over its budget.
        """
        modules = linears(model)
        roles: dict[str, dict[Group, Member]] = {}
        for group, factors in fitted.items():
            out, inner = matrix(modules[group.names[0]]).shape
            roles.setdefault(model.role(group.names[0]) or "", {})[group] = Member(
                out=len(group.names) * out,
                inner=inner,
                information=effective_rank(factors.energy),
                blocks=len(group.names),
            )
        weights: dict[Group, float] = {}
        for role, members in roles.items():
            whole = list(members.values())
            # Every role keeps the same share of its weights; effective ranks decide
            # within a role.
            budget = kept(sum(m.out * m.inner for m in whole), ratio)
            if (least := sum(m.cost for m in whole)) > budget:
                raise Unsupported(
                    f"ratio {ratio} leaves {budget} weights to the matrices of role "
                    f"{role}, and rank 1 takes {least}: lower the ratio"
                )
            shares = divided(whole, budget)
            if self.fallback == "released":
                shares = _released(role, members, fitted, ratio, shares)
            weights |= dict(zip(members, shares, strict=True))
        if set(ATTENTION) <= set(roles):
            move(weights, roles, self.beta)
        return {
            group: rank
            for members in roles.values()
            for group, rank in rounded(members, weights).items()
        }


def effective_rank(energy: Tensor) -> float:
    """The exponential of the entropy of a spectrum (Roy and Vetterli 2007).

    Args:
        energy: Squared singular values, shape ``(r,)``.

    Returns:
        A number from 1 (one direction) to r (all of one size).

    >>> import torch
    >>> round(effective_rank(torch.tensor([1.0, 1.0, 1.0, 0.0])), 6)
    3.0
    """
    part = energy.double() / energy.double().sum()
    # p log p is 0 at p = 0, where the logarithm is not finite.
    part = part[part > 0]
    return float((-(part * part.log()).sum()).exp())


def divided(members: Sequence[Member], budget: float) -> list[float]:
    """Weights for each member, ``k_g w_g`` with ``k_g`` as in the class's equation.

    Args:
        members: The groups of one role.
        budget: Number of weights for all of them.

    Returns:
        For each member a number of weights from that of rank 1 to that of its highest
        useful rank; what one cannot use is divided among the others.
    """
    # In weights: from rank 1 to the highest rank that saves any.
    bounds = [(one.cost, one.most * one.cost) for one in members]
    # k_g w_g is in proportion to sqrt(R_g / w_g) w_g = sqrt(R_g w_g).
    scores = [math.sqrt(one.information * one.cost) for one in members]

    def weights(price: float) -> list[float]:
        both = zip(scores, bounds, strict=True)
        return [min(max(price * score, low), high) for score, (low, high) in both]

    # The sum grows with the price of information: bisection finds the one that spends
    # the budget with all bounds kept.
    low, high = 0.0, max(b[1] / s for b, s in zip(bounds, scores, strict=True))
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(weights(middle)) > budget else (middle, high)
    return weights(low)


def move(
    weights: dict[Group, float],
    roles: Mapping[str, Mapping[Group, Member]],
    beta: float,
) -> None:
    """Move a share of the weights of query and key to value, in place.

    Args:
        weights: The number of weights of each group; those of the three roles change.
        roles: Role -> its groups; the roles query, key and value are read.
        beta: The share, in [0, 1).
    """
    givers = {**roles["query"], **roles["key"]}
    # No group gives its last rank away.
    given = {g: min(beta * weights[g], weights[g] - m.cost) for g, m in givers.items()}
    pool = total = sum(given.values())
    open_to = dict(roles["value"])
    # In rounds: every block gets an equal part, and what a full group cannot take is
    # divided among the others in the next round.
    while open_to and pool > 1e-6:
        blocks = sum(m.blocks for m in open_to.values())
        part = pool / blocks
        for group, one in list(open_to.items()):
            room = one.most * one.cost - weights[group]
            taken = min(room, part * one.blocks)
            weights[group] += taken
            pool -= taken
            if taken == room:
                del open_to[group]
    for group, gift in given.items():
        # What no value could use is still in the pool: givers lose that much less.
        weights[group] -= gift * (1 - pool / total) if total else 0.0


def rounded(
    members: Mapping[Group, Member], weights: Mapping[Group, float]
) -> dict[Group, int]:
    """Whole ranks of the groups of one role, within the weights they have together.

    Args:
        members: The groups of one role.
        weights: The number of weights of each group.

    Returns:
        Group -> rank, from 1 to the highest useful one.
    """
    # A sum of shares may be an ulp below the whole number that it stands for.
    ranks = {g: int(weights[g] / m.cost + 1e-9) for g, m in members.items()}
    left = sum(weights[g] - ranks[g] * m.cost for g, m in members.items())
    # Rounding down leaves less than one rank for each group; the groups in which a
    # weight carries most information get one more while it lasts.
    fullest = sorted(members, key=lambda g: -members[g].information / members[g].cost)
    for group in fullest:
        one = members[group]
        if ranks[group] < one.most and one.cost <= left + 1e-6:
            ranks[group] += 1
            left -= one.cost
    return ranks


def _grouped_queries(model: Model) -> bool:
    widths: dict[str, int] = {}
    for role in ("query", "key"):
        for _, module in model.modules(role):
            widths[role] = matrix(module).shape[0]
    return widths.get("key", 0) < widths.get("query", 0)


def _released(
    role: str,
    members: Mapping[Group, Member],
    fitted: Mapping[Group, Factors],
    ratio: float,
    shares: Sequence[float],
) -> list[float]:
    """Equal ranks instead of ``shares`` where the released code falls back to them."""
    # The released code compares the errors for output, up and down only, and gives
    # equal ranks to gate.
    if role in ATTENTION:
        return list(shares)
    same: list[float] = []
    errors = [0.0, 0.0]
    for (group, one), share in zip(members.items(), shares, strict=True):
        rank = max(1, rank_for(one.out, one.inner, ratio))
        same.append(float(rank * one.cost))
        # Squared errors of the whole role: with its own ranks, and with equal ones.
        errors[0] += fitted[group].error(int(share / one.cost)) ** 2
        errors[1] += fitted[group].error(rank) ** 2
    return list(shares) if errors[0] < errors[1] and role != "gate" else same

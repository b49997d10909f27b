"""The choice of matrices of a language model that are decomposed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.core import Model, Unsupported
from harness.toolkit.roles import block_of, expert_of
from methods._kernels.low_rank.factors import Group, linears

Join = Literal["none", "qk", "qkv"]
_JOINED: dict[Join, tuple[tuple[str, ...], ...]] = {
    "none": (),
    "qk": (("query", "key"), ("gate", "up")),
    "qkv": (("query", "key", "value"), ("gate", "up")),
}


def groups_within_blocks(model: Model, join: Join) -> list[Group]:
    """Groups of matrices of one block that read the same input; the rest stay alone.

    Args:
        model: Its role table says which matrix is which.
        join: ``qk`` joins query with key, and gate with up. ``qkv`` joins value with
            query and key as well. ``none`` joins nothing.

    Returns:
        Groups that cover every matrix once, in the network's order.
    """
    # Role -> all roles of its group, which serve as the key of the group in a block.
    partner = {role: roles for roles in _JOINED[join] for role in roles}
    members: dict[tuple[object, ...], list[str]] = {}
    for name in linears(model):
        role = model.role(name)
        together = partner.get(role or "")
        # The owner tells blocks apart, and experts of one block.
        key = (name.rpartition(".")[0], together) if together else (name,)
        members.setdefault(key, []).append(name)
    return [Group(tuple(names)) for names in members.values()]


def groups_across_blocks(
    model: Model, *, size: int, shared: Sequence[str]
) -> list[Group]:
    """Groups of matrices of one role in adjacent blocks; other roles stay alone.

    Of a mixture, experts of the same number form a group.

    Args:
        model: Its role table says which matrix is which.
        size: Number of blocks in a group; the remaining blocks form a smaller group.
        shared: The roles whose matrices share a basis.

    Returns:
        Groups that cover every matrix once.
    """
    members: dict[tuple[object, ...], list[str]] = {}
    order: dict[int | None, int] = {}
    for name in linears(model):
        role, number = model.role(name), block_of(name)
        block = order.setdefault(number, len(order))
        alike = (role, expert_of(name), block // size)
        key = alike if role in shared else (name,)
        members.setdefault(key, []).append(name)
    return [
        # A matrix alone has its path as key, a shared group begins with its role.
        # Members of several blocks read different inputs.
        Group(tuple(names), once=key[0] not in shared)
        for key, names in members.items()
    ]


def groups_across_experts(model: Model, *, shared: Sequence[str]) -> list[Group]:
    """Groups of matrices of one role in the experts of a block; the rest stay alone.

    Args:
        model: Its role table says which matrix is which.
        shared: The roles whose matrices share a basis.

    Returns:
        Groups that cover every matrix once.

    Raises:
        Unsupported: If the model has no experts.
    """
    members: dict[tuple[object, ...], list[str]] = {}
    for name in linears(model):
        role, expert = model.role(name), expert_of(name)
        together = role in shared and (expert or "").isdigit()
        key = (role, block_of(name)) if together else (name,)
        members.setdefault(key, []).append(name)
    if all(len(names) == 1 for names in members.values()):
        raise Unsupported(
            f"{model.name} has no experts that could share a basis: leave out "
            "`groups: experts`, or choose a mixture of experts"
        )
    # Every expert reads the tokens that are routed to it: the product with the basis
    # differs.
    return [Group(tuple(names), once=len(names) == 1) for names in members.values()]

"""The choice of matrices of a language model that are decomposed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.core import Model
from harness.toolkit.roles import block_of
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
        key = (block_of(name), together) if together else (name,)
        members.setdefault(key, []).append(name)
    return [Group(tuple(names)) for names in members.values()]


def groups_across_blocks(
    model: Model, *, size: int, shared: Sequence[str]
) -> list[Group]:
    """Groups of matrices of one role in adjacent blocks; other roles stay alone.

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
        key = (role, block // size) if role in shared else (name,)
        members.setdefault(key, []).append(name)
    return [
        Group(tuple(names), once=key[0] not in shared) for key, names in members.items()
    ]

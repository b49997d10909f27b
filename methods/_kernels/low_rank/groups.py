"""Which matrices of a language model are decomposed together."""

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
    """Matrices of one block that read the same input, and every other one alone.

    Args:
        model: With a role table.
        join: ``qk`` joins query with key and gate with up, ``qkv`` value too.

    Returns:
        Groups that cover every matrix once, in the network's order.
    """
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
    """Matrices of one role in adjacent blocks; roles that do not share stay alone.

    Args:
        model: With a role table.
        size: Blocks a group; the remainder forms a last, smaller one.
        shared: Roles that share a basis.

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

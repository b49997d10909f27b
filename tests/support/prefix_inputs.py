"""Second implementation of inputs behind compressed blocks, with whole forward runs."""

import copy

import torch

from harness.toolkit.roles import block_of
from methods._kernels.low_rank.factors import linears


def inputs_behind(ctx, net, block):
    """The inputs of each matrix of a dense block that follows the blocks of ``net``.

    Returns:
        Module path -> inputs, float64, shape ``(tokens, in)``.
    """
    mixed = copy.deepcopy(net)
    names = [n for n in linears(ctx.model) if block_of(n) == block]
    path = names[0].split(f".{block}.")[0]
    dense = ctx.model.net.get_submodule(path)[block]
    mixed.get_submodule(path)[block] = copy.deepcopy(dense)
    seen = {}
    for name in names:
        mixed.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.__setitem__(name, args[0].flatten(0, -2))
        )
    with torch.no_grad():
        mixed(input_ids=ctx.calibration().tokens, use_cache=False)
    return {name: x.double() for name, x in seen.items()}

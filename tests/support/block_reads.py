"""Counts how often the weights of a block are read after those of another block."""

from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class BlockReads(TorchDispatchMode):
    """The blocks whose weights operators read, in order, while the context is open.

    Weights in files are read from the disk, and would be copied to a device, each time
    that another block comes between: neighbours in ``order`` always differ.

    Args:
        blocks: The blocks of a network.
    """

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.order: list[int] = []
        self._owner = {
            value.untyped_storage().data_ptr(): index
            for index, block in enumerate(blocks)
            for value in block.parameters()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args=(), kwargs=None) -> Any:
        for value in tree_leaves((args, kwargs or {})):
            if hasattr(value, "untyped_storage"):
                owner = self._owner.get(value.untyped_storage().data_ptr())
                if owner is not None and self.order[-1:] != [owner]:
                    self.order.append(owner)
        return func(*args, **(kwargs or {}))

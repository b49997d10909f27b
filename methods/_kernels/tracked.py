"""A network stored as a seed and the few weights that left their initial values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.core import Unsupported
from harness.toolkit.saved_model import layer
from methods._kernels.counter import normals


@dataclass(frozen=True, slots=True)
class Initial:
    """Initial values of all parameters of a network, by flat index.

    Matrices and kernels are normal with standard deviation ``gain / sqrt(fan_in)``;
    norm weights are 1, a PReLU's slope 0.25, other vectors 0.

    Args:
        seed: Seed of the generator that draws the weights.
        ends: Flat index after each parameter, int64.
        scale: Standard deviation of each parameter, float32.
        base: Mean of each parameter, float32.
    """

    seed: int
    ends: Tensor
    scale: Tensor
    base: Tensor

    def at(self, index: Tensor) -> Tensor:
        """The initial values at flat positions ``index``, float32.

        >>> initial = initial_of(nn.Linear(3, 2), seed=1, gain=1.0)
        >>> whole = initial.at(torch.arange(8))
        >>> torch.equal(whole[[7, 2]], initial.at(torch.tensor([7, 2])))
        True
        """
        # Parameter p owns the indices from ends[p - 1] to ends[p] - 1.
        owner = torch.bucketize(index, self.ends, right=True)
        # A function of seed and index alone: any weight can be regenerated without the
        # others.
        return normals(self.seed, index) * self.scale[owner] + self.base[owner]

    def __len__(self) -> int:
        return int(self.ends[-1])


def initial_of(net: nn.Module, seed: int, gain: float) -> Initial:
    """The initial values that ``seed`` gives the parameters of ``net``.

    Args:
        net: Gives the shapes of the parameters, their order and the device.
        seed: Any 64-bit integer that seeds the generator.
        gain: 1 is LeCun's normal distribution; the square root of 2 is He's.

    Returns:
        The values as a function of the index.
    """
    sizes, scales, bases = [], [], []
    for owner, name, weight in _parameters(net):
        sizes.append(weight.numel())
        matrix = weight.ndim > 1
        # The fan-in of an output is the size of its slice: inputs, or channels times
        # kernel. Vectors are constant, which a normal number of scale 0 gives.
        scales.append(gain / weight[0].numel() ** 0.5 if matrix else 0.0)
        bases.append(_constant(owner, name))
    device = next(net.parameters()).device
    return Initial(
        seed=seed,
        ends=torch.tensor(sizes, device=device).cumsum(0),
        scale=torch.tensor(scales, device=device),
        base=torch.tensor(bases, device=device),
    )


def _constant(owner: nn.Module, name: str) -> float:
    if isinstance(owner, nn.PReLU):
        return 0.25
    norm = isinstance(owner, nn.modules.batchnorm._NormBase | nn.LayerNorm)
    return 1.0 if norm and name == "weight" else 0.0


def _parameters(net: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    found: list[tuple[nn.Module, str, Tensor]] = [
        (owner, name, weight)
        for owner in net.modules()
        for name, weight in owner._parameters.items()
        if weight is not None
    ]
    # It would have two ranges of flat indices, with two initial values.
    if len({id(weight) for *_, weight in found}) < len(found):
        raise Unsupported("a network with shared parameters cannot be tracked")
    return found


def flatten(net: nn.Module) -> Tensor:
    """One vector that all parameters of ``net`` are views of, in order."""
    parameters = [weight for *_, weight in _parameters(net)]
    flat = torch.cat([weight.detach().reshape(-1) for weight in parameters])
    start = 0
    for weight in parameters:
        # One operation on the vector then changes all parameters.
        weight.data = flat[start : start + weight.numel()].view(weight.shape)
        start += weight.numel()
    return flat


@layer("dropback")
class Tracked(nn.Module):
    """Runs ``net``, of which only ``k`` weights, their places and a seed are kept.

    Args:
        net: Its parameters are replaced by buffers that are never stored.
        seed: Seed of the generator that draws the initial values.
        gain: Standard deviation of the initial values times the root of the fan-in.
        factor: What the initial values are multiplied by.
        k: Number of weights that are stored; all others are regenerated.
    """

    def __init__(
        self, net: nn.Module, *, seed: int, gain: float, factor: float, k: int
    ) -> None:
        super().__init__()
        initial = initial_of(net, seed, gain)
        # An index of 4 bytes doubles what is stored for a value, one of 8 trebles it.
        small = len(initial) < 2**31
        self.seed, self.gain, self.factor = seed, gain, factor
        self.values = nn.Parameter(torch.zeros(k), requires_grad=False)
        indices = torch.zeros(k, dtype=torch.int32 if small else torch.int64)
        self.register_buffer("indices", indices)
        self.indices: Tensor
        paths = {id(module): path for path, module in net.named_modules()}
        # Module path and name of each weight, in the order of the flat index.
        self._weights: list[tuple[str, str]] = []
        # Buffers outside of the state dict: every weight is regenerated, so that no
        # weight may reach the file.
        for owner, name, weight in _parameters(net):
            delattr(owner, name)
            owner.register_buffer(name, weight.detach().clone(), persistent=False)
            self._weights.append((paths[id(owner)], name))
        self.net = net
        self._initial = initial

    @classmethod
    def wrap(cls, net: nn.Module, **spec: Any) -> Tracked:
        """The layer around the network that ``spec`` was made from."""
        return cls(net, **spec)

    def spec(self) -> dict[str, Any]:
        """What ``wrap`` needs beside the network."""
        return {
            "seed": self.seed,
            "gain": self.gain,
            "factor": self.factor,
            "k": len(self.values),
        }

    def weights(self) -> dict[str, Tensor]:
        """What counts as parameters: the tracked values."""
        return {"values": self.values}

    def pack(self) -> dict[str, Tensor]:
        """Values, indices, and the running statistics of norms."""
        # The state dict has no weights here: they are buffers outside of it.
        statistics = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        return {"values": self.values, "indices": self.indices, **statistics}

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``pack`` gave, and regenerate every weight."""
        statistics = {
            k.removeprefix("net."): v for k, v in tensors.items() if k[:4] == "net."
        }
        self.net.load_state_dict(statistics)
        self.track(tensors["indices"], tensors["values"])

    def track(self, indices: Tensor, values: Tensor) -> None:
        """Set the tracked weights and regenerate all others.

        Args:
            indices: Flat positions, shape ``(k,)``.
            values: Values of the tracked weights, float32.
        """
        device = self._initial.ends.device
        self.indices = indices.to(device, self.indices.dtype)
        self.values.data = values.to(device)
        # `factor` is what is left of the initial values (see `init_decay` of
        # `dropback`).
        flat = self._initial.at(torch.arange(len(self._initial), device=device))
        flat.mul_(self.factor)
        flat[self.indices.long()] = self.values.data
        start = 0
        for path, name in self._weights:
            weight: Tensor = getattr(self.net.get_submodule(path), name)
            size = weight.numel()
            weight.copy_(flat[start : start + size].view(weight.shape))
            start += size

    def forward(self, images: Tensor) -> Tensor:
        """Logits, by the regenerated weights."""
        logits: Tensor = self.net(images)
        return logits

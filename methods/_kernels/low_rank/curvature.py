"""Gradients of the language-model loss, reduced to what low-rank methods weigh by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from harness.core import NotFinite
from methods._kernels.low_rank.factors import Group, matrix

Loss = Callable[[Tensor, Tensor], Tensor]


def likelihood(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the text's own next tokens, in nats.

    Args:
        logits: Shape ``(1, T, V)``.
        ids: Shape ``(1, T)``.

    Returns:
        A scalar.
    """
    return cross_entropy(logits[0, :-1].float(), ids[0, 1:])


def sampled(generator: torch.Generator) -> Loss:
    """Summed cross-entropy of tokens that the model itself would say.

    The expected square of its gradient is the Fisher information, the curvature of the
    divergence from the dense model (Martens 2020, arXiv:1412.1193).

    Args:
        generator: On the CPU.

    Returns:
        A loss of logits ``(1, T, V)`` and ids.
    """

    def loss(logits: Tensor, ids: Tensor) -> Tensor:
        rows = logits[0].float()
        chances = rows.detach().softmax(-1).cpu()
        said = torch.multinomial(chances, 1, generator=generator)[:, 0]
        return cross_entropy(rows, said.to(rows.device), reduction="sum")

    return loss


def backward(net: nn.Module, tokens: Tensor, loss: Loss) -> Iterator[int]:
    """Run each window forward and backward; hooks set by the caller see gradients.

    Args:
        net: A causal language model that is the caller's own.
        tokens: Windows, shape ``(N, L)``.
        loss: Of logits and ids.

    Yields:
        The number of each window, after its backward pass.

    Raises:
        NotFinite: If a loss is NaN or infinite.
    """
    embeddings: nn.Module = net.get_input_embeddings()  # type: ignore[operator]
    handle = embeddings.register_forward_hook(
        lambda module, args, out: out.requires_grad_(True)
    )
    device = next(net.parameters()).device
    try:
        for number, window in enumerate(tokens):
            ids = window[None].to(device)
            value = loss(net(input_ids=ids, use_cache=False).logits, ids)
            if not bool(value.isfinite()):
                raise NotFinite(f"the loss of calibration window {number} is {value}")
            value.backward()
            yield number
    finally:
        handle.remove()


def row_fisher(
    net: nn.Module, names: Sequence[str], tokens: Tensor
) -> dict[str, Tensor]:
    """For each input channel, the summed mean squares of its weights' gradients.

    Args:
        net: The caller's own; its gradients are dropped as they come.
        names: Module paths of the matrices.
        tokens: Windows, shape ``(N, L)``; one is one batch.

    Returns:
        Name -> float64 tensor of shape ``(in,)`` (arXiv:2207.00112, equation 7).
    """
    totals: dict[str, Tensor] = {}
    net.requires_grad_(False)

    def count(name: str, module: nn.Module) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            squares = gradient.detach().float().square()
            out = 1 if type(module).__name__ == "Conv1D" else 0
            share = squares.sum(out).double() / len(tokens)
            totals[name] = totals.get(name, torch.zeros_like(share)) + share
            parameter.grad = None

        return hook

    for name in names:
        module = net.get_submodule(name)
        weight: Any = module.weight
        weight.requires_grad_(True)
        weight.register_post_accumulate_grad_hook(count(name, module))
    for _ in backward(net, tokens, likelihood):
        pass
    return totals


class OutputCurvature:
    """Second moments of the gradients at the outputs of groups, on their smaller side.

    Args:
        net: The network whose matrices they are.
        groups: Matrices that read one input.
    """

    def __init__(self, net: nn.Module, groups: Sequence[Group]) -> None:
        self.moments: dict[Group, Tensor] = {}
        self._tokens: dict[Group, int] = {}
        self._pending: dict[Group, list[Tensor]] = {}
        self._net = net
        self._groups = groups

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count every backward pass while the context is open."""
        handles = [
            self._net.get_submodule(name).register_forward_hook(self._hook(group, name))
            for group in self._groups
            for name in group.names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def mean(self) -> Mapping[Group, Tensor]:
        """Moments a token, float64: ``(in, in)`` where out > in, else ``(out, out)``.

        With ``out > in`` they are of ``W^T g``, the gradient at the input through this
        group alone, so that members of a group are weighed together.
        """
        return {g: m / self._tokens[g] for g, m in self.moments.items()}

    def _hook(self, group: Group, name: str) -> Callable[..., None]:
        members = [self._net.get_submodule(n) for n in group.names]
        tall = sum(matrix(m).shape[0] for m in members) > matrix(members[0]).shape[1]
        weight = matrix(self._net.get_submodule(name)).float()

        def seen(gradient: Tensor) -> None:
            rows = gradient.reshape(-1, gradient.shape[-1]).float()  # (tokens, out)
            pending = self._pending.setdefault(group, [])
            pending.append(rows @ weight if tall else rows)
            if len(pending) == len(group.names):
                del self._pending[group]
                # Wide groups have one member or several that are few rows each.
                whole = sum(pending[1:], pending[0]) if tall else torch.cat(pending, 1)
                self._add(group, whole)

        def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            out.register_hook(seen)

        return hook

    def _add(self, group: Group, rows: Tensor) -> None:
        moment = (rows.T @ rows).cpu().double()  # all groups' would crowd a GPU
        if group in self.moments:
            self.moments[group] += moment
        else:
            self.moments[group] = moment
        self._tokens[group] = self._tokens.get(group, 0) + len(rows)

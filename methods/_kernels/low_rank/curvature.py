"""Gradients of the language-model loss, reduced to the weights of low-rank methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from harness.core import Context, NotFinite
from harness.toolkit.blockwise import blocks_of
from harness.toolkit.devices import cast
from harness.toolkit.host_memory import compute_device, keep, of
from harness.toolkit.resident import Residency
from methods._kernels.low_rank.factors import Group, matrix

Loss = Callable[[Tensor, Tensor], Tensor]


def differentiable(ctx: Context, *, exact: bool = False) -> nn.Module:
    """A copy of the dense network whose gradients are usable.

    A float16 network is copied as float32: most of its gradients are below 6e-8, the
    smallest float16 number, and would become zero.

    Args:
        ctx: Gives the dense network.
        exact: Copy a bfloat16 network as float32, too. Its gradients have 8 binary
            digits, and a matrix of their second moments is decomposed: on a small
            network the logits that follow were off by 12 % (by 40 % with kernels
            without vector instructions), and by 2 % with float32 gradients.

    Returns:
        A network for ``backward``; float32, or bfloat16 as the dense network.
    """
    net = ctx.dense()
    host = of(net)
    if host is not None:
        _recompute(blocks_of(ctx.model.with_net(net))[1], host.residency)
    narrow = (torch.float16, torch.bfloat16) if exact else (torch.float16,)
    half = next(net.parameters()).dtype in narrow
    return cast(net, torch.float32) if half else net


def _recompute(blocks: nn.ModuleList, residency: Residency | None) -> None:
    """Let blocks keep their inputs alone and run again in the backward pass.

    The activations of one block are then alive at a time, for one more forward pass.
    The gradients are the same. It stays so: ``blocks`` belong to a private copy.
    """

    def here(
        block: nn.Module, forward: Callable[..., Any], *args: Any, **kw: Any
    ) -> Any:
        # The backward pass calls this function alone, without the hooks of the block.
        with nullcontext() if residency is None else residency.running(block):
            return forward(*args, **kw)

    for block in blocks:
        again = partial(here, block, block.forward)
        block.forward = partial(checkpoint, again, use_reentrant=False)


def likelihood(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next tokens of the text, in nats.

    Args:
        logits: Shape ``(1, T, V)``.
        ids: Token ids, shape ``(1, T)``.

    Returns:
        A scalar, float32.
    """
    return cross_entropy(logits[0, :-1].float(), ids[0, 1:])


def sampled(generator: torch.Generator) -> Loss:
    """Summed cross-entropy of tokens that are drawn from the model's own predictions.

    The expected square of its gradient is the Fisher information, the curvature of the
    divergence from the dense model (Martens 2020, arXiv:1412.1193).

    Args:
        generator: A CPU generator that draws the tokens.

    Returns:
        A loss of logits ``(1, T, V)``; it ignores the ids of the text.
    """

    def loss(logits: Tensor, ids: Tensor) -> Tensor:
        rows = logits[0].float()
        # Drawn on the CPU, so that every device draws the same tokens.
        chances = rows.detach().softmax(-1).cpu()
        said = torch.multinomial(chances, 1, generator=generator)[:, 0]
        # A sum and not a mean: gradients of single tokens keep their size, and are
        # averaged over tokens where the moments are.
        return cross_entropy(rows, said.to(rows.device), reduction="sum")

    return loss


def backward(net: nn.Module, tokens: Tensor, loss: Loss) -> Iterator[int]:
    """Run each window forward and backward; hooks set by the caller see gradients.

    Args:
        net: A causal language model that nobody else uses.
        tokens: Windows, shape ``(N, L)``.
        loss: Takes logits ``(1, L, V)`` and ids ``(1, L)``, returns a scalar.

    Yields:
        The index of each window, after its backward pass.

    Raises:
        NotFinite: If a loss is NaN or infinite.
    """
    # The weights are frozen, so the graph has to start at the embedded tokens.
    embeddings: nn.Module = net.get_input_embeddings()  # type: ignore[operator]
    handle = embeddings.register_forward_hook(
        lambda module, args, out: out.requires_grad_(True)
    )
    device = compute_device(net)
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
    """The Fisher information of each input channel of each matrix.

    It is ``sum_i mean_b (dL_b / dW_ij)^2`` for channel j, with L_b the loss of window b
    (arXiv:2207.00112, equation 7).

    Args:
        net: A network that nobody else uses; each gradient is dropped once it is
            counted, so that one matrix's gradient is alive at a time.
        names: Module paths of the matrices.
        tokens: Windows, shape ``(N, L)``; one window is one batch.

    Returns:
        Name -> float64 tensor of shape ``(in,)``; ones for an expert that no token
        reaches.
    """
    totals: dict[str, Tensor] = {}
    net.requires_grad_(False)
    handles: list[Any] = []

    def count(name: str, module: nn.Module) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            squares = gradient.detach().float().square()  # (out, in)
            # GPT-2's layer stores (in, out).
            out = 1 if type(module).__name__ == "Conv1D" else 0
            share = squares.sum(out).double() / len(tokens)  # (in,)
            totals[name] = totals.get(name, torch.zeros_like(share)) + share
            parameter.grad = None

        return hook

    try:
        for name in names:
            module = net.get_submodule(name)
            weight: Any = module.weight
            weight.requires_grad_(True)
            hook = weight.register_post_accumulate_grad_hook(count(name, module))
            handles.append(hook)
        for _ in backward(net, tokens, likelihood):
            pass
    finally:  # a hook refers to the totals and to its module, which it would keep alive
        for handle in handles:
            handle.remove()
    for name in names:  # an expert that no token reaches: a plain SVD
        if name not in totals:
            width = matrix(net.get_submodule(name)).shape[1]
            totals[name] = torch.ones(width, dtype=torch.float64)
    return totals


class OutputCurvature:
    """Second moments of the gradients at the outputs of groups, on their smaller side.

    Args:
        net: The network that is run backward.
        groups: The groups to watch; the members of each read one input.
    """

    def __init__(self, net: nn.Module, groups: Sequence[Group]) -> None:
        self.moments: dict[Group, Tensor] = {}
        self._tokens: dict[Group, int] = {}
        self._squares: dict[Group, float] = {}
        self._pending: dict[Group, dict[str, Tensor]] = {}
        self._net = net
        self._groups = groups

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count every backward pass until the context is left."""
        handles: list[Any] = []
        try:
            for group in self._groups:
                for name in group.names:
                    module = self._net.get_submodule(name)
                    hook = self._hook(group, name)
                    handles.append(module.register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def mean(self, damping: float = 0.0) -> Mapping[Group, Tensor]:
        """Moments per token, float64: ``(in, in)`` where out > in, else ``(out, out)``.

        With g the gradient at the stacked outputs of a group, the moment is H, the mean
        of ``g g^T``. With ``out > in`` it is ``W^T H W`` instead: the moment of the
        gradient at the input through this group alone. The sums are used up: a second
        call returns nothing.

        An expert that no token reaches has no gradient. Its H is the mean square of
        all other gradients, the same for each of its outputs.

        Args:
            damping: This share of its mean diagonal is added to the diagonal of H.

        Returns:
            Group -> moment.
        """
        means, self.moments = self.moments, {}
        unseen = [group for group in self._groups if group not in means]
        for group, moment in means.items():
            weights = [matrix(self._net.get_submodule(n)) for n in group.names]
            out, inner = sum(w.shape[0] for w in weights), weights[0].shape[1]
            moment.div_(self._tokens[group])  # in place: all may exceed the memory
            if damping:
                weight = torch.cat(weights).double().cpu()
                # The identity that is added to H becomes `W^T W` in the form `W^T H W`.
                # The mean of H's diagonal is the mean square of the gradient's entries.
                added = weight.T @ weight if out > inner else torch.eye(out).double()
                share = damping * self._squares[group] / (self._tokens[group] * out)
                moment.add_(added, alpha=share)
        return means | {group: self._typical(group) for group in unseen}

    def shares(self) -> dict[Group, float]:
        """The share of all tokens that each group read: below 1 for experts alone.

        A moment is a mean over the tokens that the group read. Times this share, it is
        one over all tokens, and the losses of different experts are comparable. An
        expert that no token reached counts as if one had.
        """
        whole = max(self._tokens.values())
        return {group: self._tokens.get(group, 1) / whole for group in self._groups}

    def _typical(self, group: Group) -> Tensor:
        """The moment of a group without gradients."""
        outputs = sum(
            count * sum(matrix(self._net.get_submodule(n)).shape[0] for n in seen.names)
            for seen, count in self._tokens.items()
        )
        # The mean square of an entry of all gradients: H is this number times the
        # identity.
        square = sum(self._squares.values()) / outputs
        weights = [matrix(self._net.get_submodule(n)) for n in group.names]
        weight = torch.cat(weights).double().cpu()
        out, inner = weight.shape
        return square * (weight.T @ weight if out > inner else torch.eye(out).double())

    def _hook(self, group: Group, name: str) -> Callable[..., None]:
        members = [self._net.get_submodule(n) for n in group.names]
        # The smaller of the two moments: `W^T H W` has (in, in) entries, H has
        # (out, out).
        tall = sum(matrix(m).shape[0] for m in members) > matrix(members[0]).shape[1]
        weight = matrix(self._net.get_submodule(name))

        def seen(gradient: Tensor) -> None:
            rows = gradient.reshape(-1, gradient.shape[-1]).float()  # (tokens, out)
            squares = float(rows.double().square().sum())
            self._squares[group] = self._squares.get(group, 0.0) + squares
            # The moment needs the rows of all members for the same tokens, and the
            # backward pass reaches the members one by one.
            pending = self._pending.setdefault(group, {})
            # Converted here: float32 copies of all matrices would exceed a GPU.
            pending[name] = rows @ weight.to(rows) if tall else rows
            if len(pending) == len(group.names):
                del self._pending[group]
                # In the order of the stacked weight, not in that of the backward pass.
                parts = [pending[n] for n in group.names]
                self._add(
                    group, sum(parts[1:], parts[0]) if tall else torch.cat(parts, 1)
                )

        def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            out.register_hook(seen)

        return hook

    def _add(self, group: Group, rows: Tensor) -> None:
        moment = (rows.T @ rows).cpu().double()  # all groups' would crowd a GPU
        if group in self.moments:
            self.moments[group] += moment
        else:
            self.moments[group] = keep(self._net, moment)
        self._tokens[group] = self._tokens.get(group, 0) + len(rows)

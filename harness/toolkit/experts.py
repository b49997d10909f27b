"""Experts of a mixture as linear layers, which transformers holds in one parameter.

A block with a mixture of experts sends each token to a few of its many MLPs.
transformers stores the matrices of all of them in one 3-D parameter, and multiplies
them in one call. Methods treat matrices one by one, so ``split`` gives each expert
linear layers of its own, under the names that checkpoints have for them
(``experts.3.gate_proj``). ``fused_state`` is the way back, for plain checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.toolkit.saved_model import layer, replace


class Expert(nn.Module):
    """The matrices of one expert: ``down(activation(gate x, up x))``."""

    def __init__(self, parts: dict[str, nn.Linear]) -> None:
        super().__init__()
        for name, linear in parts.items():
            self.add_module(name, linear)

    def forward(self, x: Tensor, shell: Any, interleaved: bool) -> Tensor:
        """Map tokens ``(n, hidden)`` to ``(n, hidden)``, by the family's activation."""
        parts: Any = self
        if not hasattr(parts, "gate_proj"):
            inner = shell.act_fn(parts.up_proj(x))
        else:
            both = (parts.gate_proj(x), parts.up_proj(x))
            if not hasattr(shell, "_apply_gate"):
                inner = shell.act_fn(both[0]) * both[1]
            elif interleaved:  # one tensor, in the family's order
                inner = shell._apply_gate(torch.stack(both, -1).flatten(-2))
            else:
                inner = shell._apply_gate(torch.cat(both, -1))
        out: Tensor = parts.down_proj(inner)
        if hasattr(shell, "post_expert_norm"):
            out = shell.post_expert_norm(out)
        return out


@layer("experts")
class Experts(nn.Module):
    """All experts of a block, each with linear layers of its own.

    Their weights are views of the parameter that held them, where its layout allows
    it; otherwise the expert's part is copied and the parameter is released.

    Args:
        fused: The module of transformers; it loses its matrices and stays as the part
            that knows the activation.
    """

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        known: Any = fused
        # Llama 4 gives every expert all tokens, those of other experts as zeros.
        self.sorted = not hasattr(known, "has_gate")
        # How the fused parameter lies: transposed is (experts, in, out) where a linear
        # layer has (out, in); interleaved has the rows of gate and up in turn, not one
        # half below the other.
        self.transposed = self.sorted or known.is_transposed
        self.interleaved = not (self.sorted or known.is_concatenated)
        self.gated = hasattr(known, "gate_up_proj")
        self.count = len(known.down_proj)
        # As many tokens as the widest of its inputs has channels: with fewer, the
        # second moments of that input are singular.
        self.floor = max(known.down_proj.shape[1:])
        for number in range(self.count):
            self.add_module(str(number), Expert(self._parts(known, number)))
        # The fused parameter is released: views keep its memory alive, copies do not
        # need it.
        for name in [n for n in fused._parameters if "_proj" in n]:
            del fused._parameters[name]
        self.shell = fused

    @classmethod
    def wrap(cls, module: nn.Module) -> nn.Module:
        """The experts of a module; itself if it has been split already."""
        return module if isinstance(module, cls) else cls(module)

    def spec(self) -> dict[str, Any]:
        """Nothing beside the module itself."""
        return {}

    def forward(self, hidden_states: Tensor, *routing: Any, **named: Any) -> Tensor:
        """The sum of each token's experts, weighted by its router.

        Args:
            hidden_states: Tokens, shape ``(n, hidden)``; for Llama 4 the tokens of each
                expert below each other, scaled already.
            *routing: The numbers of the experts and their weights, ``(n, k)`` each.
            **named: The same by name.

        Returns:
            Shape ``(n, hidden)``; for Llama 4 the rows are not yet summed.
        """
        given = [*routing, *named.values()]
        if self.sorted:
            return self._each(hidden_states)
        # (n, k) each: the k experts of each token, and their weights.
        index, weights = given
        # Half precision is summed in the dtype of the weights, often float32.
        dtype = torch.promote_types(hidden_states.dtype, weights.dtype)
        total = torch.zeros_like(hidden_states, dtype=dtype)
        for number in index.unique().tolist():
            if number >= self.count:  # a place that no expert fills
                continue
            # Which tokens have this expert, and as which of their k: (m,) each.
            token, place = torch.where(index == number)
            made = self.apart(number, hidden_states[token])
            total.index_add_(0, token, (made * weights[token, place, None]).to(dtype))
        return total.to(hidden_states.dtype)

    def routed(
        self, hidden_states: Tensor, *routing: Any, **named: Any
    ) -> tuple[Tensor, Tensor]:
        """Tokens and the numbers of their experts, from the arguments of ``forward``.

        Args:
            hidden_states: As in ``forward``.
            *routing: As in ``forward``.
            **named: As in ``forward``.

        Returns:
            Tokens of shape ``(n, hidden)``, and whole numbers of shape ``(n, k)``.
        """
        if not self.sorted:
            index: Tensor = [*routing, *named.values()][0]
            return hidden_states, index
        # Row e * n + i is token i for expert e; a row of zeros was not routed to it.
        expert = torch.arange(self.count).repeat_interleave(
            len(hidden_states) // self.count
        )
        hit = hidden_states.any(-1)
        return hidden_states[hit], expert.to(hit.device)[hit][:, None]

    def _each(self, rows: Tensor) -> Tensor:
        """Llama 4: an expert leaves a row of zeros as it is, since it has no bias."""
        parts = rows.view(self.count, -1, rows.shape[-1])
        made = torch.zeros_like(parts)
        for number, part in enumerate(parts):
            token = part.any(-1).nonzero()[:, 0]
            if len(token):
                made[number, token] = self.apart(number, part[token])
        return made.view_as(rows)

    def apart(self, number: int, x: Tensor) -> Tensor:
        """What one expert makes of tokens of shape ``(n, hidden)``."""
        expert: Any = self.get_submodule(str(number))
        made: Tensor = expert(x, self.shell, self.interleaved)
        return made

    def _parts(self, fused: Any, number: int) -> dict[str, nn.Linear]:
        """The linear layers of one expert."""
        parts = {}
        if self.gated:
            weight, bias = self._of(fused, "gate_up_proj", number)
            half = len(weight) // 2
            # Rows of gate and up in a weight of shape (2 * inner, hidden).
            rows = [slice(0, half), slice(half, None)]
            if self.interleaved:
                rows = [slice(0, None, 2), slice(1, None, 2)]
            for name, own in zip(("gate_proj", "up_proj"), rows, strict=True):
                parts[name] = _linear(weight[own], None if bias is None else bias[own])
        else:
            parts["up_proj"] = _linear(*self._of(fused, "up_proj", number))
        parts["down_proj"] = _linear(*self._of(fused, "down_proj", number))
        return parts

    def _of(self, fused: Any, name: str, number: int) -> tuple[Tensor, Tensor | None]:
        weight = getattr(fused, name).detach()[number]
        bias = getattr(fused, f"{name}_bias", None)
        weight = weight.T if self.transposed else weight
        return weight, None if bias is None else bias.detach()[number]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer around a tensor, which is copied only if its rows are not whole.

    Built without its constructor, whose random values would take minutes for the
    largest mixtures.
    """
    made = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(made)
    made.out_features, made.in_features = weight.shape
    made.weight = nn.Parameter(weight.contiguous())
    made.bias = None if bias is None else nn.Parameter(bias.contiguous())  # type: ignore[assignment]
    return made


def split(net: nn.Module) -> nn.Module:
    """Give each expert of a network linear layers of its own, in place.

    Args:
        net: A network of transformers; its outputs stay equal to rounding.

    Returns:
        ``net``.
    """
    for path, module in list(net.named_modules()):
        if is_fused(module):
            replace(net, path, Experts(module))
    return net


def is_fused(module: nn.Module) -> bool:
    """Whether a module holds experts in a layout that is known here."""
    known = hasattr(module, "has_gate") or type(module).__name__ == "Llama4TextExperts"
    matrix = module._parameters.get("down_proj")
    return known and matrix is not None and matrix.ndim == 3


class Routed(NamedTuple):
    """What one expert saw of a text.

    Args:
        tokens: Tokens that its router gave it.
        floor: As ``Experts.floor``; the statistics of an expert with fewer tokens are
            completed.
    """

    tokens: int
    floor: int


@contextmanager
def completed(part: nn.Module) -> Iterator[dict[str, Routed]]:
    """Let experts that few tokens reach see more of them, for the sake of statistics.

    The forward passes inside of the context are counted. When it is left, each expert
    that fewer tokens reached than ``Experts.floor`` runs once more, on tokens of the
    same block that were routed to others, the first ones, until it has seen as many.
    Hooks on its matrices see these tokens as they see the others; its output is
    ignored. So no second moment is empty, and each is that of real tokens.

    Args:
        part: A block, or a whole network; without experts nothing happens.

    Yields:
        Module path of each expert within ``part`` -> what was routed to it; filled when
        the context is left.
    """
    watched = [
        (path, module, _Seen(module))
        for path, module in part.named_modules()
        if isinstance(module, Experts)
    ]
    handles = [
        module.register_forward_pre_hook(seen.add, with_kwargs=True)
        for _, module, seen in watched
    ]
    counts: dict[str, Routed] = {}
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
    for path, module, seen in watched:
        for number, count in enumerate(seen.counts):
            counts[f"{path}.{number}"] = Routed(count, module.floor)
            # The hooks on the matrices are those of the caller, who is still inside of
            # its own context: this call adds to its sums.
            if count < module.floor and seen.tokens:
                more = seen.others(number)[: module.floor - count]
                with torch.no_grad():
                    module.apart(number, more)


class _Seen:
    """The tokens that reach the experts of one block: their number, and the first."""

    def __init__(self, experts: Experts) -> None:
        self.experts = experts
        self.counts = [0] * experts.count
        self.tokens: list[Tensor] = []
        self.index: list[Tensor] = []
        self.kept = 0

    def add(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """A forward pre-hook of the experts."""
        tokens, index = self.experts.routed(*args, **named)
        # A place that no expert fills has a larger number: all of these fall into one
        # bin behind the experts, which is not read.
        found = index.flatten().clamp(max=self.experts.count)
        for number, more in enumerate(found.bincount(minlength=1).tolist()):
            if number < self.experts.count:
                self.counts[number] += more
        # An expert below the floor was given fewer of these than are missing.
        left = self.experts.floor - self.kept
        if left > 0:
            self.tokens.append(tokens[:left].detach().clone())
            self.index.append(index[:left])
            self.kept += len(self.tokens[-1])

    def others(self, number: int) -> Tensor:
        """The first tokens that were not routed to one expert."""
        # (tokens,): none of the k experts of a token is this one.
        apart = (torch.cat(self.index) != number).all(1)
        return torch.cat(self.tokens)[apart]


def fused_state(net: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network under the names, and in the layout, of transformers.

    Args:
        net: A network whose experts are plain linear layers of their dense shape.

    Returns:
        A state dict for the architecture of transformers; experts are copied to it.
    """
    state = dict(net.state_dict())
    for path, module in net.named_modules():
        if not isinstance(module, Experts):
            continue
        for name in [n for n in state if n.startswith(f"{path}.")]:
            value = state.pop(name)
            # What the module of transformers had beside its matrices goes back to its
            # old name.
            if name.startswith(f"{path}.shell."):
                state[path + name.removeprefix(f"{path}.shell")] = value
        for name, value in _fused(module):
            state[f"{path}.{name}"] = value
    return state


def _fused(module: Experts) -> Iterator[tuple[str, Tensor]]:
    """The 3-D parameters of a block's experts."""
    experts: list[Any] = [module.get_submodule(str(n)) for n in range(module.count)]
    for leaf in ("weight", "bias"):
        if getattr(experts[0].down_proj, leaf) is None:
            continue
        # (experts, inner, hidden), or (experts, inner) for biases.
        up = torch.stack([getattr(one.up_proj, leaf).detach() for one in experts])
        if module.gated:
            gate = torch.stack(
                [getattr(one.gate_proj, leaf).detach() for one in experts]
            )
            pair = (gate, up)
            up = torch.cat(pair, 1)
            if module.interleaved:
                # Rows of gate and up in turn: (experts, inner, 2, ...) becomes
                # (experts, 2 * inner, ...).
                up = torch.stack(pair, 2).flatten(1, 2)
        down = torch.stack([getattr(one.down_proj, leaf).detach() for one in experts])
        turn = module.transposed and leaf == "weight"
        end = "" if leaf == "weight" else "_bias"
        first = "gate_up_proj" if module.gated else "up_proj"
        yield first + end, up.transpose(1, 2).contiguous() if turn else up
        yield "down_proj" + end, down.transpose(1, 2).contiguous() if turn else down

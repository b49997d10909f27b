"""A GRU layer whose six matrices are modules, so that any method can replace them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

GATES = ("reset", "update", "candidate")


class Gates(nn.Module):
    """The three projections that read one thing: the input, or the last state."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.reset = nn.Linear(inputs, units)
        self.update = nn.Linear(inputs, units)
        self.candidate = nn.Linear(inputs, units)

    def projections(self) -> list[nn.Module]:
        """Reset, update, candidate: the order of ``torch.nn.GRU``."""
        return [self.reset, self.update, self.candidate]


class GruLayer(nn.Module):
    """One layer, equal to ``torch.nn.GRU`` number for number.

    With ``r``, ``z`` the reset and the update gate, ``n`` the candidate::

        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h = (1 - z) * n + z * h

    The reset gate works behind the recurrent product, as in cuDNN and PyTorch (Cho et
    al. 2014, arXiv:1406.1078, and arXiv:2102.06143 put it before); that is what lets
    the fused kernel run, whatever made the weights.

    Args:
        inputs: Size of a step of the sequence.
        units: Size of the state.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.input = Gates(inputs, units)
        self.hidden = Gates(units, units)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as ``torch.nn.GRU`` does."""
        bound = self.units**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        sequence: PackedSequence,
        state: Tensor,
        weights: list[Tensor] | None = None,
    ) -> tuple[PackedSequence, Tensor]:
        """Every state of the sequence, and the last one of each sentence.

        Args:
            sequence: Steps of size ``inputs``.
            state: Shape ``(sentences, units)``, in the packed order.
            weights: From ``fused``, where many calls follow each other; None to make
                them.

        Returns:
            The states, packed alike, and the last states, shape ``(sentences, units)``.
        """
        # A method may have put a module without a matrix (two factors, say) in place of
        # a projection: only the step-by-step form can call it.
        weights = weights or self.fused()
        if weights is None:
            data, last = self._stepwise(sequence, state)
        else:
            # What ``nn.GRU`` itself calls; the module would insist on parameters of its
            # own.
            data, last = torch._VF.gru(
                sequence.data,
                sequence.batch_sizes,
                state[None],
                weights,
                True,  # with biases
                1,  # layer
                0.0,  # dropout
                self.training,
                False,  # one direction
            )
            last = last[0]
        return sequence._replace(data=data), last

    def load_torch(self, other: nn.GRU, layer: int = 0) -> GruLayer:
        """This layer with the weights of a layer of ``torch.nn.GRU``."""
        with torch.no_grad():
            for gates, side in ((self.input, "ih"), (self.hidden, "hh")):
                for kind in ("weight", "bias"):
                    # ``nn.GRU`` stores the three gates below each other: (3 * units,
                    # inputs).
                    rows = getattr(other, f"{kind}_{side}_l{layer}").chunk(3)
                    for projection, part in zip(gates.projections(), rows, strict=True):
                        getattr(projection, kind).copy_(part)
        return self

    def fused(self) -> list[Tensor] | None:
        """Weights for the fused kernel; None if a projection has no matrix."""
        weights, biases = [], []
        for gates in (self.input, self.hidden):
            own = [getattr(p, "weight", None) for p in gates.projections()]
            shifts = [getattr(p, "bias", None) for p in gates.projections()]
            matrices = [w for w in own if w is not None]
            vectors = [b for b in shifts if b is not None]
            if len(matrices) < len(GATES) or len(vectors) < len(GATES):
                return None
            weights.append(torch.cat(matrices))
            biases.append(torch.cat(vectors))
        return weights + biases

    def _stepwise(
        self, sequence: PackedSequence, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same step by step, by calling the projections, of any kind."""
        # The projections of the input need no state: one product for all steps. Packed
        # data has shape (words of all sentences, units), step after step.
        steps = [p(sequence.data) for p in self.input.projections()]
        outputs, start = [], 0
        for size in sequence.batch_sizes.tolist():
            x_r, x_z, x_n = (s[start : start + size] for s in steps)
            # Sentences are sorted by length: at this step the first ``size`` still have
            # a word.
            old = state[:size]
            r = torch.sigmoid(x_r + self.hidden.reset(old))
            z = torch.sigmoid(x_z + self.hidden.update(old))
            n = torch.tanh(x_n + r * self.hidden.candidate(old))
            new = (1 - z) * n + z * old
            outputs.append(new)
            # Sentences that have ended keep their last state.
            state = torch.cat([new, state[size:]])
            start += size
        return torch.cat(outputs), state

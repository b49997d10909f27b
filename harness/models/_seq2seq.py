"""Encoder and decoder of GRU layers; teacher forcing, greedy and beam search."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pad_packed_sequence,
)

from harness.models._gru import GruLayer
from harness.toolkit.recipe import Recipe
from harness.toolkit.sequences import BEGIN, END, PAD


class Stack(nn.Module):
    """GRU layers one above the other, with residual connections from the second on."""

    def __init__(
        self, layers: int, units: int, *, inputs: int, residual: bool, dropout: float
    ) -> None:
        super().__init__()
        self.residual = residual
        self.dropout = dropout
        self.layers = nn.ModuleList(
            GruLayer(inputs if i == 0 else units, units) for i in range(layers)
        )

    def fused(self) -> list[list[Tensor] | None]:
        """Weights of every layer for the fused kernel; see ``GruLayer.fused``."""
        return [layer.fused() for layer in self.layers]  # type: ignore[operator]

    def forward(
        self,
        sequence: PackedSequence,
        states: Tensor,
        fused: list[list[Tensor] | None],
    ) -> tuple[PackedSequence, Tensor]:
        """States of the top layer, and the last states of all.

        Args:
            sequence: Embeddings of the words, packed.
            states: Shape ``(layers, sentences, units)``, in the packed order.
            fused: From ``fused``; made once for all steps of a search.

        Returns:
            The top layer's states, packed, and ``(layers, sentences, units)``.
        """
        last = []
        for i, layer in enumerate(self.layers):
            below = sequence.data
            if i > 0:  # the words come with dropout already
                dropped = functional.dropout(below, self.dropout, self.training)
                sequence = sequence._replace(data=dropped)
            sequence, end = layer(sequence, states[i], fused[i])
            if self.residual and i > 0:
                sequence = sequence._replace(data=sequence.data + below)
            last.append(end)
        return sequence, torch.stack(last)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the decoder needs of the source.

    Args:
        states: Shape ``(layers, sentences, units)``: the encoder's last states.
        outputs: Shape ``(sentences, source words, units)``, for attention.
        mask: Shape ``(sentences, source words)``, True at words.
        fused: The decoder's weights, prepared once for all steps.
    """

    states: Tensor
    outputs: Tensor
    mask: Tensor
    fused: list[list[Tensor] | None]

    def select(self, rows: Tensor) -> Encoded:
        """The sentences ``rows``, in that order and as often as they are named."""
        return replace(
            self,
            states=self.states[:, rows],
            outputs=self.outputs[rows],
            mask=self.mask[rows],
        )


class Seq2Seq(nn.Module):
    """GRU encoder-decoder; the decoder starts from the encoder's states, by layer.

    Args:
        source_words: Size of the source vocabulary.
        target_words: Size of the target vocabulary.
        layers: Of the encoder, and as many of the decoder.
        units: Size of a state.
        embedding: Size of a word's vector.
        dropout: On the input of every layer and on the last output, while training.
        residual: Add a layer's input to its output, from the second layer on.
        reverse: Read the source from its end.
        attention: Luong's global attention, dot score, without input feeding
            (arXiv:1508.04025).
    """

    def __init__(  # noqa: PLR0913 - one argument a choice, all by keyword
        self,
        *,
        source_words: int,
        target_words: int,
        layers: int,
        units: int,
        embedding: int,
        dropout: float,
        residual: bool,
        reverse: bool,
        attention: bool,
    ) -> None:
        super().__init__()
        self.layers, self.units = layers, units
        self.reverse = reverse
        self.dropout = dropout
        self.recipe = Recipe()  # what it was trained by; see ``GruSeq2Seq.build``
        self.source_embedding = nn.Embedding(source_words, embedding, padding_idx=PAD)
        self.target_embedding = nn.Embedding(target_words, embedding, padding_idx=PAD)
        sizes = {"inputs": embedding, "residual": residual, "dropout": dropout}
        self.encoder = Stack(layers, units, **sizes)  # type: ignore[arg-type]
        self.decoder = Stack(layers, units, **sizes)  # type: ignore[arg-type]
        self.mix = nn.Linear(2 * units, units) if attention else None
        self.output = nn.Linear(units, target_words)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every weight again from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
            elif isinstance(module, GruLayer):
                module.reset_parameters()
        for linear in (self.mix, self.output):
            if linear is not None:
                linear.reset_parameters()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores of every next word under teacher forcing.

        Args:
            source: Word numbers, shape ``(sentences, source words)``, padded behind.
            target: The same of the translations, without begin and end.

        Returns:
            Logits of shape ``(sentences, target words + 1, vocabulary)``; position
            ``t`` reads the words before ``t``, and the last real one predicts the end.
        """
        steps, _ = self._teach(source, target)
        padded, _ = pad_packed_sequence(steps, batch_first=True)
        return padded

    def log_loss(self, source: Tensor, target: Tensor) -> tuple[Tensor, int]:
        """Summed negative log-likelihood of the translations, in nats.

        Args:
            source: Source token ids, as in ``forward``.
            target: Target token ids, as in ``forward``.

        Returns:
            The sum, and over how many words (ends included) it runs.
        """
        steps, wanted = self._teach(source, target)
        loss = functional.cross_entropy(steps.data.float(), wanted, reduction="sum")
        return loss, len(wanted)

    def encode(self, source: Tensor) -> Encoded:
        """Read the source sentences.

        Args:
            source: Source token ids, as in ``forward``.

        Returns:
            The encoder's states and outputs, in the order of ``source``.
        """
        lengths = (source != PAD).sum(1)  # (sentences,)
        # The first source words are then the last ones read, next to the first target
        # words (Sutskever et al. 2014, arXiv:1409.3215).
        if self.reverse:
            source = _reversed(source, lengths)
        packed = self._packed(self.source_embedding(source), lengths)
        shape = (self.layers, len(source), self.units)
        zeros = packed.data.new_zeros(shape)
        outputs, states = self.encoder(packed, zeros, self.encoder.fused())
        padded, _ = pad_packed_sequence(outputs, batch_first=True)
        return Encoded(
            # Packing sorts by length; the states go back to the caller's order.
            states=states[:, outputs.unsorted_indices],
            outputs=padded,
            mask=source != PAD,
            fused=self.decoder.fused(),
        )

    def step(
        self, words: Tensor, states: Tensor, encoded: Encoded
    ) -> tuple[Tensor, Tensor]:
        """One step of decoding.

        Args:
            words: The last word of each sentence, shape ``(sentences,)``.
            states: Shape ``(layers, sentences, units)``.
            encoded: Of the same sentences.

        Returns:
            Log-probabilities ``(sentences, vocabulary)`` and the new states.
        """
        data = self.target_embedding(words)
        # A sequence of one step has one batch size and needs no order.
        one = PackedSequence(data, torch.tensor([len(words)]), None, None)
        top, states = self.decoder(one, states, encoded.fused)
        outputs = self._attend(top.data[:, None], encoded)[:, 0]
        return functional.log_softmax(self.output(outputs).float(), dim=-1), states

    def _teach(self, source: Tensor, target: Tensor) -> tuple[PackedSequence, Tensor]:
        """Packed logits, and the words that they should give."""
        encoded = self.encode(source)
        # One more for BEGIN on the side that is read, and for END on the side to
        # predict.
        lengths = (target != PAD).sum(1) + 1
        given = functional.pad(target, (1, 0), value=BEGIN)
        wanted = functional.pad(target, (0, 1), value=PAD)
        # END directly behind the last word of each sentence, before the padding.
        wanted.scatter_(1, lengths[:, None] - 1, END)
        packed = self._packed(self.target_embedding(given), lengths)
        order = packed.sorted_indices
        # The encoder's states in the packed order of the target, which is another one
        # than that of the source.
        steps, _ = self.decoder(packed, encoded.states[:, order], encoded.fused)
        rows, columns = _places(packed)
        data = steps.data
        if self.mix is not None:
            padded, _ = pad_packed_sequence(steps, batch_first=True)
            # Attention needs (B, T, units); back to packed steps, so that the output
            # layer, the widest product of the network, does not compute padding.
            data = self._attend(padded, encoded)[rows, columns]
        data = functional.dropout(data, self.dropout, self.training)
        return steps._replace(data=self.output(data)), wanted[rows, columns]

    def _packed(self, words: Tensor, lengths: Tensor) -> PackedSequence:
        """Word vectors of shape ``(sentences, words, size)`` without their padding."""
        dropped = functional.dropout(words, self.dropout, self.training)
        return pack_padded_sequence(
            dropped, lengths.cpu(), batch_first=True, enforce_sorted=False
        )

    def _attend(self, outputs: Tensor, encoded: Encoded) -> Tensor:
        """Outputs ``(sentences, steps, units)``, mixed with what they look at."""
        if self.mix is None:
            return outputs
        scores = outputs @ encoded.outputs.transpose(1, 2)  # (B, T, S)
        # Padding gets weight zero.
        scores = scores.masked_fill(~encoded.mask[:, None], float("-inf"))
        context = scores.softmax(-1) @ encoded.outputs  # (B, T, units)
        return torch.tanh(self.mix(torch.cat([context, outputs], dim=-1)))


def _reversed(source: Tensor, lengths: Tensor) -> Tensor:
    """Each sentence from its end, its padding left behind."""
    place = torch.arange(source.shape[1], device=source.device)
    turned = lengths[:, None] - 1 - place
    # Position i reads word length - 1 - i; padding reads itself.
    return source.gather(1, torch.where(turned >= 0, turned, place))


def _places(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Sentence and position of every packed step."""
    sizes = packed.batch_sizes
    order = packed.sorted_indices
    assert order is not None, "packed with enforce_sorted=False"
    # Step t of the packed data has the first ``batch_sizes[t]`` sentences in sorted
    # order.
    rows = torch.cat([order[:size] for size in sizes.tolist()])
    columns = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    return rows, columns.to(rows.device)

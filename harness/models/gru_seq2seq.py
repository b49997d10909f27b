"""Encoder and decoder of GRU layers, as the gloss-to-text papers train them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

import torch

from harness.core import Context, Model
from harness.models._seq2seq import Seq2Seq
from harness.registry import model
from harness.toolkit.recipe import Recipe
from harness.toolkit.seq2seq_training import train_translation
from harness.toolkit.sequences import SPECIAL

EXAMPLE = (10, 15)  # words of source and target of the sentence that MACs count for


@model("gru_seq2seq", kind="seq2seq", gives={"linears", "recurrent"}, trained=True)
class GruSeq2Seq:
    """Words in, words out; no attention, source reversed, residual from layer 2 on.

    Only the matrices that ``treat`` names have a role, ``linear``, so that every method
    compresses the same ones.

    Args:
        layers: Of the encoder, and of the decoder; 4 in the paper.
        units: Size of a state; 1,000 in the paper.
        embedding: Size of a word's vector; None for ``units``.
        dropout: While training, on the input of every layer and on the last output.
        residual: Add a layer's input to its output, from the second layer on.
        reverse: Read the source from its end.
        attention: ``luong`` for dot-product attention over the encoder's outputs.
        treat: Which matrices methods compress: ``candidate``, the two halves of the
            candidate matrix of the last encoder layer, as arXiv:2102.06143, or
            ``recurrent``, all matrices of all GRU layers.
        recipe: How the network is trained; ``batch_size`` counts sentences.
    """

    layers: int = 2
    units: int = 128
    embedding: int | None = None
    dropout: float = 0.2
    residual: bool = True
    reverse: bool = True
    attention: Literal["none", "luong"] = "none"
    treat: Literal["candidate", "recurrent"] = "candidate"
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=8,
            batch_size=32,
            optimizer="adam",
            lr=2e-3,
            schedule="linear",
            clip=5.0,
            keep="best",
        )
    )

    by_content: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse sizes that build no network.

        Raises:
            ValueError: With every option that is out of range.
        """
        rules = {
            "layers": (self.layers >= 1, "at least 1"),
            "units": (self.units >= 1, "at least 1"),
            "embedding": (self.embedding is None or self.embedding >= 1, "at least 1"),
            "dropout": (0 <= self.dropout < 1, "in [0, 1)"),
        }
        wrong = [
            f"{name} is {getattr(self, name)!r}; it must be {allowed}"
            for name, (fine, allowed) in rules.items()
            if not fine
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    def revision(self) -> str:
        """Raised by hand when the architecture changes."""
        return "1"

    def build(self, shape: Mapping[str, Any], seed: int) -> Model:
        """A fresh network for the vocabularies of a task.

        Args:
            shape: ``source_words`` and ``target_words``: sizes of the vocabularies.
            seed: Equal seeds draw equal initial weights.

        Returns:
            The model in ``eval`` mode. Its network stores the training recipe, which a
            method that trains the network again also uses.
        """
        # Initial weights come from the seed alone, and building a network changes no
        # random stream of the process.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Seq2Seq(
                source_words=shape["source_words"],
                target_words=shape["target_words"],
                layers=self.layers,
                units=self.units,
                embedding=self.embedding or self.units,
                dropout=self.dropout,
                residual=self.residual,
                reverse=self.reverse,
                attention=self.attention == "luong",
            )
        net.recipe = self.recipe
        return Model(
            name="gru_seq2seq",
            net=net.eval(),
            kind="seq2seq",
            roles=self._roles(),
            example=lambda: _example(shape),
        )

    def train(self, model: Model, ctx: Context) -> None:
        """Train ``model.net`` in place on ``ctx.data``, a ``ParallelText``."""
        train_translation(model.net, self.recipe, ctx)

    def _roles(self) -> dict[str, str]:
        if self.treat == "candidate":
            # The matrix W_n of the paper reads input and state side by side; here it is
            # two modules.
            last = self.layers - 1
            return {rf"encoder\.layers\.{last}\.(?:input|hidden)\.candidate": "linear"}
        gates = r"(?:input|hidden)\.(?:reset|update|candidate)"
        return {rf"(?:encoder|decoder)\.layers\.\d+\.{gates}": "linear"}


def _example(shape: Mapping[str, Any]) -> dict[str, Any]:
    """One sentence pair of typical length, of words that every vocabulary has."""
    sides = zip(
        ("source", "target"),
        EXAMPLE,
        (shape["source_words"], shape["target_words"]),
        strict=True,
    )
    first = len(SPECIAL)
    return {
        side: (torch.arange(length) % max(1, words - first) + first)[None] % words
        for side, length, words in sides
    }

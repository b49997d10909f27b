"""Pairs of sentences as numbers: vocabularies, parallel text, bucketed batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
POOL = 20  # batches that are sorted by length together, then shuffled


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words and their numbers; the first four are padding, begin, end, unknown.

    Args:
        words: Every word, in the order of its number.
    """

    words: tuple[str, ...]
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = {word: number for number, word in enumerate(self.words)}
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def of(
        cls, sentences: Iterable[Sequence[str]], *, min_count: int = 1
    ) -> Vocabulary:
        """The words that occur ``min_count`` times, the most frequent first.

        >>> Vocabulary.of([["b", "a"], ["a"]]).words[4:]
        ('a', 'b')
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        kept = sorted(
            (w for w, n in counts.items() if n >= min_count and w not in SPECIAL),
            key=lambda word: (-counts[word], word),
        )
        return cls(words=(*SPECIAL, *kept))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentence: Iterable[str]) -> Tensor:
        """Numbers of the words, ``UNKNOWN`` for a word that training never showed."""
        return torch.tensor(
            [self._numbers.get(word, UNKNOWN) for word in sentence], dtype=torch.long
        )

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of the numbers."""
        return [self.words[number] for number in numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Sentences and their translations, as word numbers without begin and end.

    Args:
        source: One tensor of shape ``(words,)`` a sentence.
        target: As many, the translations.
    """

    source: Sequence[Tensor]
    target: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def target_words(self) -> int:
        """What a model predicts: every target word, and one end per sentence."""
        return sum(len(t) for t in self.target) + len(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelText:
    """What a sequence-to-sequence model is trained on.

    Args:
        source: Vocabulary of the source language, from the training pairs alone.
        target: The same of the target language.
        train: Training pairs, those over the length limit left out.
        dev: Development pairs, all of them.
        left_out: How many training pairs were over the limit.
    """

    source: Vocabulary
    target: Vocabulary
    train: Pairs
    dev: Pairs
    left_out: int = 0

    @property
    def shape(self) -> Mapping[str, int]:
        """What a model must know to be built."""
        return {"source_words": len(self.source), "target_words": len(self.target)}


def pad(sentences: Sequence[Tensor]) -> Tensor:
    """Word numbers as one tensor of shape ``(sentences, longest)``, padded behind."""
    return pad_sequence(list(sentences), batch_first=True, padding_value=PAD)


def buckets(pairs: Pairs, *, size: int, stream: torch.Generator) -> Iterator[list[int]]:
    """Batches of pairs of like length, in an order that the stream decides.

    Sentences are shuffled, sorted by length inside a pool of ``POOL`` batches, and the
    batches of the pool are shuffled: little padding, and no order by length.

    Args:
        pairs: Where the lengths are read.
        size: Sentences a batch; the last one may be smaller.
        stream: Draws the order of the sentences and of the batches.

    Yields:
        Indices into ``pairs``; each index once.
    """
    lengths = [
        (len(t), len(s)) for s, t in zip(pairs.source, pairs.target, strict=True)
    ]
    order = torch.randperm(len(pairs), generator=stream).tolist()
    for start in range(0, len(order), POOL * size):
        # Sorted by target length, then by source length.
        pool = sorted(order[start : start + POOL * size], key=lengths.__getitem__)
        batches = [pool[i : i + size] for i in range(0, len(pool), size)]
        for which in torch.randperm(len(batches), generator=stream).tolist():
            yield batches[which]


def take(pairs: Pairs, which: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Padded source and target of the pairs with these indices."""
    return (
        pad([pairs.source[i] for i in which]),
        pad([pairs.target[i] for i in which]),
    )

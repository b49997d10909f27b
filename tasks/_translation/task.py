"""The base of all translation tasks: splits, vocabularies, protocol and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.core import BenchError, Measurement, Model, NotFinite
from harness.toolkit.decoding import Search, translate
from harness.toolkit.seq2seq_training import word_loss
from harness.toolkit.sequences import UNKNOWN, Pairs, ParallelText, Vocabulary
from tasks._translation.aligned import Words
from tasks._translation.corpus_scores import bleu, chrf, corpus_scores, signature

SPLITS = ("train", "dev", "test")
_loaded: dict[Any, tuple[ParallelText, Mapping[str, tuple[Words, Words]]]] = {}


@dataclass(frozen=True, kw_only=True)
class TranslationTask:
    """BLEU, chrF and ROUGE-L of translations of the test and the dev split.

    Args:
        beam: Number of hypotheses of beam search; 1 is greedy search.
        length_penalty: Exponent of the penalty of Wu et al. 2016 (arXiv:1609.08144); 0
            for none.
        max_length: Longest translation in words, its end included; one that does not
            end by then is counted as ``unfinished``.
        max_words: Training pairs with a longer side are left out and counted
            (``left_out_training_pairs``); test sentences never are.
        min_count: Words that occur less often in training become ``<unk>``.
        limit: Number of training pairs, from the first on; None for all.
    """

    beam: int = 3
    length_penalty: float = 0.0
    max_length: int = 60
    max_words: int = 60
    min_count: int = 1
    limit: int | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse options that are out of range.

        Raises:
            ValueError: With every option that is out of range.
        """
        least = {"beam": 1, "max_length": 1, "max_words": 1, "min_count": 1, "limit": 1}
        wrong = [
            f"{name} is {value!r}; it must be at least {bound}"
            for name, bound in least.items()
            if (value := getattr(self, name)) is not None and value < bound
        ]
        if self.length_penalty < 0:
            wrong.append(
                f"length_penalty is {self.length_penalty}; it must be at least 0"
            )
        if wrong:
            raise ValueError("; ".join(wrong))

    def read(self) -> Mapping[str, tuple[Words, Words]]:
        """Source and target sentences of ``train``, ``dev`` and ``test``, in words."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Identity of the data."""
        raise NotImplementedError

    def training(self) -> str:
        """Key of the training data; tasks of one key share dense networks."""
        options = (self.max_words, self.min_count, self.limit)
        return f"{self.name}:{self.fingerprint()}:{options}"

    def protocol(self) -> dict[str, Any]:
        """How the numbers are made; equal protocols are comparable."""
        return {
            "measured_on": "test",
            "select_on": "dev",
            "bleu": signature(bleu(4)),
            "chrf": signature(chrf()),
            "rouge_l": "mean sentence F1, split at white space, rouge-score",
            "search": f"beam {self.beam}, length penalty {self.length_penalty:g}, "
            f"at most {self.max_length} words, <unk> never written",
            "max_words": self.max_words,
            "min_count": self.min_count,
            "train_limit": self.limit,
        }

    def data(self) -> ParallelText:
        """Training and development pairs as numbers; read once per process."""
        return self._load()[0]

    def evaluate(self, model: Model) -> Iterator[Measurement]:
        """Measure ``model`` on the test and the development split.

        Args:
            model: A sequence-to-sequence model of this task's vocabularies.

        Yields:
            ``bleu1`` to ``bleu4``, ``chrf``, ``rouge_l`` and ``exact_match`` (all in
            percent, with bootstrap standard errors), the per-sentence counts that
            BLEU is computed from, counts of unknown words and unfinished translations,
            and the word perplexity; of the development split, ``dev_bleu4`` and
            ``dev_rouge_l``.
        """
        text, splits = self._load()
        search = Search(
            beam=self.beam,
            length_penalty=self.length_penalty,
            max_length=self.max_length,
        )
        hypotheses, references, counts = _translated(
            model, text, splits["test"], search
        )
        yield from corpus_scores(hypotheses, references)
        yield from counts
        yield self._perplexity(model, text, splits["test"])
        yield _count("left_out_training_pairs", text.left_out, len(splits["train"][0]))
        hypotheses, references, _ = _translated(model, text, splits["dev"], search)
        for score in corpus_scores(hypotheses, references):
            if score.metric in ("bleu4", "rouge_l"):
                yield _of_dev(score)

    def _perplexity(
        self, model: Model, text: ParallelText, sides: tuple[Words, Words]
    ) -> Measurement:
        pairs = _numbers(text, sides)
        device = next(model.net.parameters()).device
        value = word_loss(model.net, pairs, device)
        if not np.isfinite(value):
            raise NotFinite(f"the loss on the test split of {self.name} is {value}")
        return Measurement(
            metric="word_perplexity",
            # A collapsed model stays a finite number.
            value=float(np.exp(min(value, 700.0))),
            goal="min",
            n=pairs.target_words,
        )

    def _load(self) -> tuple[ParallelText, Mapping[str, tuple[Words, Words]]]:
        key = (self, self.fingerprint())  # files may change while a process lives
        if key not in _loaded:
            _loaded.clear()  # one data set in memory at a time
            splits = self.read()
            _loaded[key] = (self._parallel(splits), splits)
        return _loaded[key]

    def _parallel(self, splits: Mapping[str, tuple[Words, Words]]) -> ParallelText:
        given = list(zip(*splits["train"], strict=True))[: self.limit]
        # Only training pairs may be left out: a test set without its long sentences
        # would be another one.
        train = [
            pair for pair in given if max(len(side) for side in pair) <= self.max_words
        ]
        if not train or not splits["dev"][0] or not splits["test"][0]:
            raise BenchError(
                f"{self.name} has {len(train)} training pairs of at most "
                f"{self.max_words} words (option max_words), {len(splits['dev'][0])} "
                f"dev and {len(splits['test'][0])} test pairs; it needs one of each"
            )
        source, target = ([list(s) for s in side] for side in zip(*train, strict=True))
        # The vocabularies come from the training pairs alone: words of dev and test
        # that training lacks are <unk>, as in use.
        text = ParallelText(
            source=Vocabulary.of(source, min_count=self.min_count),
            target=Vocabulary.of(target, min_count=self.min_count),
            train=Pairs(source=[], target=[]),
            dev=Pairs(source=[], target=[]),
            left_out=len(given) - len(train),
        )
        return ParallelText(
            source=text.source,
            target=text.target,
            train=_numbers(text, (source, target)),
            dev=_numbers(text, splits["dev"]),
            left_out=text.left_out,
        )


def _numbers(text: ParallelText, sides: tuple[Words, Words]) -> Pairs:
    return Pairs(
        source=[text.source.encode(s) for s in sides[0]],
        target=[text.target.encode(t) for t in sides[1]],
    )


def _translated(
    model: Model, text: ParallelText, sides: tuple[Words, Words], search: Search
) -> tuple[list[str], list[str], list[Measurement]]:
    """Hypotheses, references, and counts of unknown words and unfinished ones."""
    source = [text.source.encode(s) for s in sides[0]]
    found = translate(model.net, source, search)  # type: ignore[arg-type] # decodes step by step
    hypotheses = [" ".join(text.target.decode(tokens)) for tokens, _ in found]
    unknown = int(sum((s == UNKNOWN).sum() for s in source))
    words = sum(len(s) for s in source)
    # Cut at `max_length`; such translations count in all scores.
    unfinished = sum(not ended for _, ended in found)
    counts = [
        _count("unknown_source_words", unknown, words),
        _count("unfinished", unfinished, len(found)),
    ]
    return hypotheses, [" ".join(t) for t in sides[1]], counts


def _count(metric: str, value: int, n: int) -> Measurement:
    return Measurement(metric=metric, value=float(value), goal="none", n=n)


def _of_dev(score: Measurement) -> Measurement:
    return Measurement(
        metric=f"dev_{score.metric}",
        value=score.value,
        unit=score.unit,
        goal=score.goal,
        stderr=score.stderr,
        n=score.n,
    )

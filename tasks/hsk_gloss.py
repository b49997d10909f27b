"""Chinese sentences word by word in English glosses, to English: small, and offline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from harness.core import BenchError
from harness.registry import task
from harness.toolkit import text_files
from tasks._translation.aligned import Words, content
from tasks._translation.task import SPLITS, TranslationTask

PACKAGE, VERSION = "hsk_sentences_audio", "1.0.0"


@task("hsk_gloss", kind="seq2seq", gives={"training_data"})
class HskGloss(TranslationTask):
    """4,354 sentences of the package ``hsk-sentences-audio`` (CC BY-SA 4.0).

    The source has one word for each Chinese word: the first sense of its English gloss.
    The target is the English translation in lower case, with punctuation marks as
    words. Of every ten sentences the ninth is dev and the tenth is test.
    """

    name: ClassVar[str] = "hsk_gloss"
    by_content: ClassVar[bool] = True

    def read(self) -> Mapping[str, tuple[Words, Words]]:
        """The three splits."""
        records = json.loads(text_files.read(_file()))
        sides: dict[str, tuple[Words, Words]] = {split: ([], []) for split in SPLITS}
        for number, record in enumerate(records):
            source, target = sides[{8: "dev", 9: "test"}.get(number % 10, "train")]
            source.append([gloss(token) for token in record["tokens"]])
            target.append(english(record["translation"]["en"]))
        return sides

    def fingerprint(self) -> str:
        """Digest of the package's data file."""
        return content([_file()])


def gloss(token: Mapping[str, Any]) -> str:
    """One source word: the first English sense, or the Chinese word if it has none.

    Args:
        token: The Chinese ``word``, and ``gloss_en``, its English senses with `;`
            between them.

    Returns:
        A word without spaces.

    >>> gloss({"word": "您", "gloss_en": "you (courteous, as opposed to 你[ni3])"})
    'YOU'
    >>> gloss({"word": "小时", "gloss_en": "small hour; hour"})
    'SMALL-HOUR'
    >>> gloss({"word": "延长", "gloss_en": "see 延長縣|延长县[Yan2 chang2 Xian4]"})
    '延长'
    """
    text = re.sub(r"\([^)]*\)", " ", token.get("gloss_en") or "")
    sense = "-".join(text.split(";")[0].split()).upper()
    return sense if sense and sense.isascii() else str(token["word"])


def english(text: str) -> list[str]:
    """Lower-case words and punctuation marks.

    >>> english("It's 5 o'clock, teacher!")
    ["it's", '5', "o'clock", ',', 'teacher', '!']
    """
    return re.findall(r"\w+(?:['\u2019]\w+)*|[^\w\s]", text.lower())


def _file() -> Path:
    """The package's data, found without importing the package."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BenchError(
            f"hsk_gloss reads the package hsk-sentences-audio, which is not installed: "
            f"pip install hsk-sentences-audio=={VERSION}"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "sentences.json"

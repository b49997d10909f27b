"""The last word of a paragraph, in English that every Python carries: no download."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from harness.registry import task
from harness.toolkit import texts
from tasks._lm_eval import task_index
from tasks._lm_eval.zero_shot import ZeroShot

# Words and plain punctuation: no code, tables or lists.
_PROSE = re.compile(r"[A-Z][\w\s,;:.()'\"-]*")
_ENDS = re.compile(r"(?P<context>.+) (?P<word>[a-z]{4,})\.")
_WORDS = (30, 80)  # of a paragraph: enough to guess from, and short


@task("pydoc-cloze", kind="causal_lm")
class PydocCloze(ZeroShot):
    """How often greedy decoding gives the last word of a paragraph of pydoc's topics.

    The protocol is that of LAMBADA (Paperno et al. 2016, arXiv:1606.06031), by
    lm-eval's code; the text is the first half of the reference manual inside the
    standard library. Calibration reads the second half by default.
    """

    text: ClassVar[str] = "pydoc-test"
    by_content: ClassVar[bool] = True

    def task(self) -> tuple[str, Any]:
        """An lm-eval configuration in place of a name."""
        return "pydoc-cloze", {
            "task": "pydoc-cloze",
            "custom_dataset": _dataset,
            "test_split": "test",
            "output_type": "loglikelihood",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{' ' + word}}",
            "metric_list": [
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
            ],
            "metadata": {"version": 1},
        }

    def versions(self) -> dict[str, Any]:
        """Raised by hand when the choice of paragraphs changes."""
        return {"pydoc-cloze": 1}

    def manager(self) -> Any:
        """A task manager that knows no name: the task is given whole."""
        return task_index.manager()

    def reads(self) -> str:
        """The text, for a person."""
        return "pydoc's topics"

    def fingerprint(self) -> str:
        """The content hash of the text; it differs between versions of Python."""
        return texts.fingerprint(self.text)


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs that end in a plain word, without that word.

    Args:
        text: Prose with empty lines between paragraphs.

    Yields:
        ``context``, line breaks made spaces, and ``word``; 30 to 80 words in all.
    """
    for block in re.split(r"\n\s*\n", text):
        whole = " ".join(block.split())
        found = _ENDS.fullmatch(whole)
        if (
            found
            and _PROSE.fullmatch(whole)
            and _WORDS[0] <= len(whole.split()) <= _WORDS[1]
        ):
            yield found.groupdict()


def _dataset(**_: Any) -> dict[str, Any]:
    from datasets import Dataset

    return {"test": Dataset.from_list(list(paragraphs(texts.read(PydocCloze.text))))}

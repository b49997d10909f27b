"""Texts by name, for calibration and perplexity; each with a content hash."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.core import BenchError
from harness.options import nearest
from harness.toolkit import hub, identity, text_files


@dataclass(frozen=True, slots=True)
class Source:
    """A text that a Hugging Face data set holds.

    Args:
        dataset: Its name on the hub.
        config: Of the data set, None for the only one.
        split: Name of the split in the data set.
        column: Where the text stands in a row.
        join: What stands between two rows.
        files: One file of the repository, where the whole is too large.
        rows: How many rows count, None for all.
    """

    dataset: str
    config: str | None
    split: str
    column: str = "text"
    join: str = "\n\n"
    files: str | None = None
    rows: int | None = None


# The topics of the manual in alphabetical order: all, the first half, the second half.
PYDOC = ("pydoc", "pydoc-test", "pydoc-train")
_WIKITEXT = "Salesforce/wikitext"
_PTB = "ptb-text-only/ptb_text_only"
SOURCES: Mapping[str, Source] = {
    # The joins are those of locuslab/wanda and SVD-LLM, so that token streams agree.
    "wikitext2-train": Source(_WIKITEXT, "wikitext-2-raw-v1", "train"),
    "wikitext2-test": Source(_WIKITEXT, "wikitext-2-raw-v1", "test"),
    # The tokenised form, with <unk>; its rows end in line feeds of their own.
    "wikitext2-validation": Source(_WIKITEXT, "wikitext-2-v1", "validation", join=""),
    "ptb-train": Source(_PTB, "penn_treebank", "train", "sentence"),
    "ptb-test": Source(_PTB, "penn_treebank", "test", "sentence"),
    # SparseGPT's shard, of which the papers read the first 2,000 documents.
    "c4-validation": Source(
        "allenai/c4",
        None,
        "validation",
        files="en/c4-validation.00000-of-00008.json.gz",
        rows=2000,
    ),
}


def is_file(name: str) -> bool:
    """Whether ``read`` takes this for the path of a file."""
    return name not in PYDOC and name not in SOURCES


def read(name: str) -> str:
    """The text called ``name``.

    Args:
        name: ``pydoc`` (the manual that every Python carries), its halves
            ``pydoc-test`` and ``pydoc-train``, a key of ``SOURCES``, or the path of a
            UTF-8 file.

    Returns:
        The whole text.

    Raises:
        BenchError: If there is no such text, or it is not available here.
    """
    if name in PYDOC:
        return _pydoc(name)
    if name in SOURCES:
        return _hub(name, os.environ.get("HF_DATASETS_CACHE"))
    path = Path(name).expanduser()
    if not path.is_file():
        known = [*PYDOC, *SOURCES]
        raise BenchError(nearest("text", name, known) + " Or the path of a file.")
    return text_files.read(path)


def fingerprint(name: str) -> str:
    """The content hash of a text: two numbers over equal hashes are over equal texts.

    Args:
        name: Name of the text, as in ``read``.

    Returns:
        ``sha256:`` and 16 hexadecimal digits.

    Raises:
        BenchError: As ``read``.
    """
    found = identity.of_text(read(name))
    identity.record("text", name, found)
    return found


def differs(name: str, here: str, planned: str) -> str:
    """The sentence for a text whose content is not the planned one."""
    return (
        f"calibration text {name} is {here} here, and {planned} in the plan: copy the "
        "planned text to this machine, or plan again"
    )


def overlap(one: str, other: str) -> bool:
    """Whether two texts share words: one cannot judge what learnt from the other.

    Texts of one data set are disjoint if their splits differ; the whole of ``pydoc``
    contains both of its halves. Files are compared by content.

    Args:
        one: Name of a text, as in ``read``.
        other: Name of another text, as in ``read``.

    Returns:
        False also where a text cannot be read here; reading it says why.
    """
    if one == other:
        return True
    if one in PYDOC and other in PYDOC:
        return "pydoc" in (one, other)
    if one in SOURCES and other in SOURCES:
        return False
    try:
        # Only equal content is found; two files of which one contains the other are
        # not.
        return read(one) == read(other)
    except BenchError:
        return False


@cache
def _pydoc(name: str) -> str:
    """The language reference as pydoc shows it, in a fixed order."""
    from pydoc_data.topics import topics

    # Sorted, so that the halves are the same on every machine; they share no topic.
    keys = sorted(topics)
    half = len(keys) // 2
    parts = {"pydoc": keys, "pydoc-test": keys[:half], "pydoc-train": keys[half:]}
    return "\n\n".join(topics[key] for key in parts[name])


@cache
def _hub(name: str, cache_dir: str | None) -> str:
    source = SOURCES[name]
    rows = _rows(name, source, cache_dir)
    if source.rows is not None:
        rows = rows.select(range(min(source.rows, len(rows))))
    return source.join.join(rows[source.column])


def _rows(name: str, source: Source, cache_dir: str | None) -> Any:
    hub.settle()
    import datasets

    options: dict[str, Any] = {"split": source.split, "cache_dir": cache_dir}
    if source.files:
        options["data_files"] = {source.split: source.files}
    loaded: Callable[..., Any] = datasets.load_dataset
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()  # "using the latest cached version" is well
    try:
        return loaded(source.dataset, source.config, **options)
    except (OSError, ValueError, RuntimeError) as why:
        which = f"{source.dataset} {source.config or source.files}"
        raise BenchError(
            f"text {name!r} is not available: {which} is neither in the Hugging Face "
            f"cache nor reachable ({str(why).splitlines()[0][:120]}). Run "
            "`shrinkgrid prepare GRID` where there is a network, or set "
            "HF_DATASETS_CACHE to a copy of a cache"
        ) from why
    finally:
        datasets.logging.set_verbosity(before)

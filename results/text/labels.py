"""Labels: names of plugins with the options that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from results.text import json_reader


@lru_cache(maxsize=4096)
def label(name: str | None, options: str | None) -> str:
    """Write a name with its options, as short as possible without losing any.

    Args:
        name: Name of a method, model or task.
        options: The options that differ from their defaults, as JSON; or None.

    Returns:
        The name and ``option=value`` for each option; a field of a nested option (a
        training recipe) has a dotted path. An option that repeats the name (of a task
        of lm-eval) is omitted. The label of a chain joins those of its methods.

    >>> label("svd", "{}"), label("gptq", '{"bits":4,"group":[1,2]}')
    ('svd', 'gptq bits=4 group=[1,2]')
    >>> label("piqa", '{"id":"piqa","limit":3}')
    'piqa limit=3'
    >>> label("mlp", '{"hidden":[16],"recipe":{"epochs":4,"schedule":{"step":2}}}')
    'mlp hidden=[16] recipe.epochs=4 recipe.schedule.step=2'
    >>> label("chain", '{"chain":["svd",{"bits":4,"name":"round_to_nearest"}]}')
    'svd + round_to_nearest bits=4'
    """
    given = json_reader.mapping(options)
    name = "?" if name is None else name  # in a damaged row
    # A chain is named by its methods; the rest of its options follows.
    if isinstance(given.get("chain"), list):
        name = " + ".join(map(_link, given.pop("chain")))
    words = _words({key: value for key, value in given.items() if value != name})
    return " ".join([name, *words])


def _words(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield ``path=value`` for every value, also inside nested options."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _words(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_short(value)}"


def _link(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return str(entry)
    options = {key: value for key, value in entry.items() if key != "name"}
    return label(str(entry.get("name")), json.dumps(options))


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def method_label(row: Mapping[str, Any]) -> str:
    """Label a method so that no two rows of one leaderboard and ratio look the same.

    Args:
        row: Has ``method``, ``method_options``, ``calibration`` and ``dtype``.

    Returns:
        The label of the method, its calibration if it reads any, and its
        floating-point type unless that is float32.
    """
    name = label(row["method"], row["method_options"])
    if row["calibration"]:
        name = with_calibration(name, row["calibration"])
    if row["dtype"] not in (None, "float32"):
        name = f"{name} {row['dtype']}"
    return name


def brief(names: Iterable[str]) -> dict[str, str]:
    """Shorten labels to the options that tell those of one method apart.

    Args:
        names: Labels of methods; a chain of methods stays whole.

    Returns:
        Label -> short label, different for different labels.

    >>> brief(["svd a=1 b=2 c=3", "svd a=1 b=4 c=5", "asvd c=1"])
    {'svd a=1 b=2 c=3': 'svd b=2', 'svd a=1 b=4 c=5': 'svd b=4', 'asvd c=1': 'asvd'}
    """
    words = {n: [n] if " + " in n else n.split(" ") for n in names}
    made = {}
    for name, (first, *options) in words.items():
        rivals = [other for other in words.values() if other[0] == first]
        kept = [first]
        for option in options:
            # An option that all the rivals left have tells nothing.
            left = [other for other in rivals if option in other]
            if len(left) < len(rivals):
                kept.append(option)
            rivals = left
        made[name] = " ".join(kept)
    return made


def shared_calibration(rows: Iterable[Mapping[str, Any]]) -> str:
    """The calibration that all calibrated rows share, as labels end with it.

    Above a leaderboard it is said once; in each row it hides the methods.

    Args:
        rows: Each has ``calibration``, as stored, or None.

    Returns:
        Its options; empty if no row has one, or if two rows differ in it.

    >>> shared_calibration([{"calibration": None}, {"calibration": '{"samples":8}'}])
    'samples=8'
    """
    known = {row["calibration"] for row in rows if row["calibration"]}
    return with_calibration("", known.pop()).strip() if len(known) == 1 else ""


def with_calibration(name: str, calibration: str) -> str:
    """Write the options of a calibration behind a name.

    Args:
        name: Label of the method or artifact that was calibrated.
        calibration: The stored options, as JSON.

    Returns:
        The name, the text with six digits of the hash of its content, and the rest.

    >>> with_calibration("svd_llm", '{"content":"sha256:0123456789abcdef","samples":8}')
    'svd_llm text=012345 samples=8'
    """
    return label(name, _short_content(calibration))


def _short_content(calibration: str) -> str:
    """Calibration options with the text and six digits of its content as one value.

    The name of the default text is left out.

    >>> _short_content('{"content":"sha256:0123456789abcdef","samples":8}')
    '{"text": "012345", "samples": 8}'
    >>> _short_content('{"content":"sha256:0123456789abcdef","text":"/data/news.txt"}')
    '{"text": "news.txt@012345"}'
    """
    given = json_reader.mapping(calibration)
    text = str(given.pop("text", "")).rpartition("/")[2]
    digits = str(given.pop("content", "")).removeprefix("sha256:")[:6]
    named = "@".join(part for part in (text, digits) if part)
    return json.dumps({"text": named, **given} if named else given)

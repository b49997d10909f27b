"""What a task asks of a tokenizer, and why a tokenizer does not have it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results.text import json_reader

_DEFAULT = "default"  # what transformers calls the template without a name
# Variables by which chat templates are told to reason, besides ``enable_thinking``:
# DeepSeek V3.1 and Granite, gpt-oss.
_THINKING = "enable_thinking"
_SWITCHES = ("thinking", "reasoning_effort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """What tasks may ask of a tokenizer.

    Args:
        templates: Name -> Jinja text of each chat template.
        begin: Whether it has a begin token; None if its files do not say.
    """

    templates: Mapping[str, str]
    begin: bool | None


def of_tokenizer(tokenizer: Any) -> Has:
    """What a loaded tokenizer of transformers has."""
    found = getattr(tokenizer, "chat_template", None)
    begin = getattr(tokenizer, "bos_token_id", None) is not None
    return Has(templates=_named(found), begin=begin)


def of_folder(folder: Path) -> Has | None:
    """What the tokenizer of a model folder has, without loading it.

    Args:
        folder: With the files that ``save_pretrained`` of a tokenizer writes.

    Returns:
        None if only loading can tell, which is so without ``tokenizer_config.json``
        and with the format of Mistral, whose template is code.
    """
    if (folder / "tekken.json").is_file():
        return None
    try:
        said = json_reader.read((folder / "tokenizer_config.json").read_bytes())
        paths = {_DEFAULT: folder / "chat_template.jinja"}
        paths |= {p.stem: p for p in folder.glob("additional_chat_templates/*.jinja")}
        files = {n: p.read_text("utf-8") for n, p in paths.items() if p.is_file()}
    except (OSError, ValueError):  # loading says what is wrong
        return None
    if not isinstance(said, dict):
        return None
    # A key that is absent takes the value of the tokenizer's class, which may have one.
    begin = said["bos_token"] is not None if "bos_token" in said else None
    return Has(templates=_named(said.get("chat_template")) | files, begin=begin)


def refusal(name: str, has: Has, task: Any) -> str | None:
    """Why a task cannot be asked with a tokenizer, or None if it can.

    Args:
        name: Of the model, for the message.
        has: What its tokenizer has.
        task: The configured task; its options ``bos``, ``add_bos``,
            ``apply_chat_template``, ``enable_thinking`` and ``chat_template_args`` are
            read where it has them.

    Returns:
        One sentence with what to do.
    """
    begins = {"bos: window": getattr(task, "bos", None) == "window"}
    begins["add_bos: true"] = getattr(task, "add_bos", None) is True
    for option, asked in begins.items():
        if asked and has.begin is False:
            return (
                f"{option}: the tokenizer of {name} has no begin token; leave "
                f"{option.partition(':')[0]} out"
            )
    wanted = getattr(task, "apply_chat_template", False)
    return _no_template(name, has, wanted, task) if wanted else None


def _no_template(name: str, has: Has, wanted: bool | str, task: Any) -> str | None:
    known = sorted(has.templates)
    if not known:
        return (
            f"the tokenizer of {name} has no chat template: leave apply_chat_template "
            "out, or take a model that was tuned to follow instructions"
        )
    chosen = _DEFAULT if wanted is True else str(wanted)
    if chosen not in known:
        return (
            f"apply_chat_template: the tokenizer of {name} has no template called "
            f"{chosen!r}. Known: {', '.join(known)}; "
            + ("name one" if wanted is True else "write true for the default")
        )
    template = has.templates[chosen]
    if getattr(task, "enable_thinking", None) and not _reads(template, _THINKING):
        others = [one for one in _SWITCHES if _reads(template, one)]
        instead = f"; it reads {others[0]}: see chat_template_args" if others else ""
        return (
            f"the chat template of {name} does not read enable_thinking, so that the "
            f"option would change nothing: leave it out{instead}"
        )
    for variable in sorted(getattr(task, "chat_template_args", None) or ()):
        if not _reads(template, variable):
            return (
                f"the chat template of {name} does not read {variable}, so that this "
                "entry of chat_template_args would change nothing: leave it out"
            )
    return None


def _reads(template: str, variable: str) -> bool:
    """Whether a word stands inside of a tag of a Jinja template.

    >>> _reads("thinking {% if think %}", "thinking")
    False
    """
    tags = re.findall(r"\{[{%].*?[%}]\}", template, re.DOTALL)
    word = re.compile(rf"\b{re.escape(variable)}\b")
    return any(word.search(tag) for tag in tags)


def _named(found: Any) -> dict[str, str]:
    """Chat templates in any of the forms that transformers stores."""
    if isinstance(found, str):
        return {_DEFAULT: found} if found else {}
    if isinstance(found, list):  # of {name, template}
        pairs = [(one.get("name"), one.get("template")) for one in found if one]
        return {str(name): str(text) for name, text in pairs}
    return {str(k): str(v) for k, v in found.items()} if found else {}

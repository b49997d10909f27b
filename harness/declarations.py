"""Asks plugins what they declare, and checks every answer before it is used.

A plugin declares its options and facts, and answers while a grid is planned: the
revision of a model, the protocol of a task, the ratios of a method. These answers
decide which trials there are. Therefore a wrong answer is an error of the grid: nothing
runs, and one sentence names the plugin and what it declared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, get_args

from harness.core import BenchError, Kind, Unsupported
from harness.options import NotPlain, nearest, plain, shown

RATIO_OF = (
    "weights",  # of the compressed matrices
    "tracked_weights",
    "parameters",
    "width",  # of the residual stream
    "zeros",  # a masked weight still counts as a parameter
    "macs",
    "bits",
    "none",  # the method takes no ratio
)
MAX_TEXT = 1000  # characters of a text that is stored with every row
OF_ENGINE = ("data", "task", "version")  # fields of a protocol that the engine adds


class WrongDeclaration(BenchError):
    """A plugin declares something wrong, or raised when it was asked."""


# A check returns what the answer must be, or None if the answer is right.
Check = Callable[[Any], str | None]


def ask(owner: str, what: str, question: Callable[[], Any], check: Check) -> Any:
    """Ask a plugin something, and check the answer.

    Args:
        owner: The plugin as an error names it: ``task 'digits'``.
        what: What is asked: ``protocol()``.
        question: Calls the plugin.
        check: Returns what the answer must be, or None if it is right.

    Returns:
        The answer.

    Raises:
        WrongDeclaration: If the plugin raises or answers wrongly.
        BenchError: What the plugin raised itself, which says what a person can fix.
    """
    try:
        answer = question()
        wanted = check(answer)
    except (BenchError, KeyboardInterrupt):
        raise
    except NotPlain as why:
        raise WrongDeclaration(f"{owner}: {what} is not plain data: {why}") from why
    except Unsupported as why:
        raise BenchError(f"{owner}: {why}") from why
    # Also SystemExit, whose status would end the command without a message.
    except BaseException as why:
        raised = type(why).__name__
        raise WrongDeclaration(f"{owner}: {what} raised {raised}{_text(why)}") from why
    if wanted:
        raise WrongDeclaration(
            f"{owner}: {what} is {shown(answer)}; it must be {wanted}"
        )
    return answer


def _text(error: BaseException) -> str:
    try:
        return f": {error}" if str(error) else ""
    except Exception:  # of the plugin's own ``__str__``
        return ""


def declared(owner: str, plugin: Any, name: str, *arguments: Any) -> Any:
    """What a plugin declares under one of the names of ``HOOKS``.

    Args:
        owner: The plugin as an error names it.
        plugin: A configured plugin; its class for what does not depend on options.
        name: Name of the attribute or method.
        *arguments: Arguments of the method.

    Returns:
        The checked answer; None if the plugin does not have what it may leave out.

    Raises:
        WrongDeclaration: As ``ask``, and if the plugin lacks what it must have.
    """
    hook = HOOKS[name]
    what = f"{name}()" if hook.called else name
    found = ask(owner, what, lambda: getattr(plugin, name, None), anything)
    if found is None:
        if hook.required:
            raise WrongDeclaration(f"{owner} has no {what}: it tells {hook.tells}")
        return None
    if not hook.called:
        return ask(owner, what, lambda: found, hook.check)
    return ask(owner, what, lambda: found(*arguments), hook.check)


def anything(value: Any) -> None:
    """Accept every answer: what matters is whether the plugin raises."""


def text(value: Any) -> str | None:
    """Check a text that is stored with every row."""
    if isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable():
        return None
    return f"a text of at most {MAX_TEXT} printable characters"


def sentence(value: Any) -> str | None:
    """Check a text of any length."""
    if not isinstance(value, str) or not value.strip():
        return "a text that is not empty"
    plain(value)
    return None


def truth(value: Any) -> str | None:
    """Check true or false."""
    return None if isinstance(value, bool) else "True or False"


def whole(value: Any) -> str | None:
    """Check a count."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return None if number and value >= 0 else "a whole number of 0 or more"


def names(value: Any) -> str | None:
    """Check several texts; one text would be taken for its letters."""
    several = isinstance(value, Collection) and not isinstance(value, str | Mapping)
    if several and all(isinstance(one, str) for one in value):
        return None
    return "several texts, such as ('linears', 'convs')"


def fields(value: Any) -> str | None:
    """Check a mapping of plain data that is stored as JSON."""
    if not isinstance(value, Mapping):
        return "a mapping from names to plain values"
    plain(value)
    taken = [name for name in OF_ENGINE if name in value]
    if taken:
        return f"without {', '.join(taken)}, which shrinkgrid adds itself"
    return None


def ratios(value: Any) -> str | None:
    """Check ratios, at least one."""
    listed = isinstance(value, list | tuple) and len(value) > 0
    if listed and all(_is_ratio(one) for one in value):
        return None
    return "a tuple of at least one ratio in [0, 1)"


def facts_of_method(value: Any) -> str | None:
    """Check what a method declares, by its decorator or by its method ``facts``.

    Args:
        value: The facts, with all keys of ``harness.registry.method``.

    Returns:
        What they must be; None if they are right.
    """
    if not isinstance(value, Mapping) or not _METHOD.keys() <= value.keys():
        return f"a mapping with {', '.join(_METHOD)}"
    return _wrong(value, _METHOD)


def facts_of_others(value: Any) -> str | None:
    """Check what the decorator of a task or a model was given.

    Args:
        value: The facts.

    Returns:
        What they must be; None if they are right.
    """
    return _wrong(value, _OTHERS)


def _wrong(value: Mapping[str, Any], checks: Mapping[str, Check]) -> str | None:
    for key, check in checks.items():
        wanted = check(value[key]) if key in value else None
        if wanted:
            return f"such that {key} is {wanted}; it is {shown(value[key])}"
    return None


def _one_of(*known: str) -> Check:
    def check(value: Any) -> str | None:
        return None if value in known else f"one of {', '.join(known)}"

    return check


def _kinds(value: Any) -> str | None:
    several = names(value)
    wrong = [] if several else [one for one in value if one not in get_args(Kind)]
    return several or (nearest("kind", wrong[0], get_args(Kind)) if wrong else None)


def _number(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if number and math.isfinite(value) else "a finite number"


def _is_ratio(value: Any) -> bool:
    return _number(value) is None and 0 <= value < 1


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _options(value: Any) -> str | None:
    good = isinstance(value, Mapping) and all(isinstance(k, str) for k in value)
    return None if good else "a mapping from names of options to values, or None"


def _members(value: Any) -> str | None:
    members = value if isinstance(value, list | tuple) else [None]
    good = all(hasattr(m, "plugin") and hasattr(m, "instance") for m in members)
    return None if good else "a list of members with a plugin and an instance"


def _task(value: Any) -> str | None:
    good = callable(getattr(value, "protocol", None))
    return None if good else "a configured task"


def _shape(value: Any) -> str | None:
    # By name: this module is below the toolkit.
    if not is_dataclass(value) or type(value).__name__ != "Shape":
        return "a harness.toolkit.shape.Shape, or None"
    assert not isinstance(value, type)
    wrong = [k for k, v in asdict(value).items() if not isinstance(v, int) or v < 0]
    return f"a Shape whose {wrong[0]} is a whole number" if wrong else None


_METHOD: Mapping[str, Check] = {
    "ratio_of": _one_of(*RATIO_OF),
    "needs": names,
    "kinds": _kinds,
    "stochastic": truth,
    "tolerance": _number,
}
_OTHERS: Mapping[str, Check] = {
    "kind": _one_of(*get_args(Kind)),
    "gives": names,
    "trained": truth,
    "exclusive": truth,
    "fallback": truth,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """One thing that a plugin may declare.

    Args:
        check: Checks the answer.
        called: Whether it is a method; else an attribute.
        required: Whether the plugin must have it.
        tells: What it tells, for the error that it is missing.
    """

    check: Check
    called: bool = True
    required: bool = False
    tells: str = ""


# All that the engine asks of a configured plugin outside of a trial.
HOOKS: Mapping[str, Hook] = {
    # of every plugin
    "claim": Hook(check=_optional(_options)),
    "names": Hook(check=sentence, called=False),
    "label": Hook(check=text, called=False),
    "members": Hook(check=_members),
    # of a method
    "facts": Hook(check=facts_of_method),
    "ratios": Hook(check=_optional(ratios)),
    # of a model or a task
    "at": Hook(check=anything),
    "by_content": Hook(check=truth, called=False),
    "paths": Hook(check=names),
    # of a model
    "revision": Hook(check=text, required=True, tells="which weights it has"),
    "refuses": Hook(check=_optional(sentence)),
    "refuses_task": Hook(check=_optional(sentence)),
    "family": Hook(check=_optional(sentence)),
    "shape": Hook(check=_optional(_shape)),
    "stored_params": Hook(check=_optional(whole)),
    # of a task
    "fingerprint": Hook(check=text, required=True, tells="which data it reads"),
    "protocol": Hook(
        check=fields, required=True, tells="what must be equal to compare two numbers"
    ),
    "place": Hook(check=fields),
    "suited": Hook(check=_task),
    "text": Hook(check=_optional(sentence), called=False),
    "training": Hook(check=sentence),
}

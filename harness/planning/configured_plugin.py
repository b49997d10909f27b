"""One line of a grid: a plugin with its options, and the revision it has here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core import BenchError
from harness.options import canonical, dumps
from harness.planning import lock
from harness.planning.trial import PluginSpec
from harness.registry import Plugin, facts, resolve
from harness.toolkit import identity

if TYPE_CHECKING:
    from harness.toolkit.calibration import CalibrationSpec

UNSEEN = "unseen"  # the identity of what is not on this machine
MAX_NAME = 200  # characters of a plugin's name, or of a folder's


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredPlugin:
    """A plugin with its options, as one line of a grid configures it."""

    part: PluginSpec
    plugin: Plugin
    instance: Any

    @property
    def facts(self) -> Mapping[str, Any]:
        """Returns what the plugin declares; see ``harness.registry``."""
        return facts(self.plugin, self.instance)

    def refuses(self, method: ConfiguredPlugin) -> str | None:
        """Why this model cannot be treated by a method, from its configuration."""
        asked = getattr(self.instance, "refuses", None)
        return None if asked is None else asked(method.facts)

    def refuses_task(self, task: ConfiguredPlugin) -> str | None:
        """Why this model cannot be built for a task, before any data is read."""
        asked = getattr(self.instance, "refuses_task", None)
        return None if asked is None else asked(task.instance)


def configure(kind: str, item: Any) -> tuple[str, Plugin, Any]:
    """One plugin with its options, before anything is asked of its data.

    Args:
        kind: ``model``, ``method`` or ``task``.
        item: A name, ``{name: ..., option: ...}`` or ``{chain: [...]}``.

    Returns:
        The name, the plugin and the configured instance.

    Raises:
        BenchError: Lists every error in the item.
    """
    if isinstance(item, str):
        item = {"name": item}
    elif isinstance(item, dict) and kind == "method" and "chain" in item:
        item = {"name": "chain", **item}
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise BenchError(_not_an_item(kind, item))
    if len(item["name"]) > MAX_NAME or not item["name"].isprintable():
        raise BenchError(
            f"{kind} {item['name'][:MAX_NAME]!r}... is not a name: up to {MAX_NAME} "
            "printable characters are"
        )
    # ``implied`` are options that follow from the name, as of a task that a family
    # claims; what the user writes wins.
    plugin, implied = resolve(kind, item["name"])
    instance = plugin.build(implied | {k: v for k, v in item.items() if k != "name"})
    return getattr(instance, "label", None) or item["name"], plugin, instance


def _not_an_item(kind: str, item: Any) -> str:
    """The error for an item of a list; shows the form that was probably meant."""
    said = f"{kind} {item!r} is neither a name nor {{name: ...}}"
    if isinstance(item, dict) and len(item) == 1:
        name, options = next(iter(item.items()))
        if isinstance(options, dict) and all(map(_is_scalar, options.values())):
            words = ", ".join(f"{k}: {_yaml(v)}" for k, v in options.items())
            return f"{said}; write {{name: {name}, {words}}}"
        if options is None:
            return f"{said}; write {name}, or {{name: {name}, OPTION: VALUE}}"
    return f"{said}; write a name, or {{name: NAME, OPTION: VALUE}}"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def choose(
    kind: str, item: Any, locked: Mapping[str, str] | None = None
) -> ConfiguredPlugin:
    """One configured plugin with its identity.

    Args:
        kind: ``model``, ``method`` or ``task``.
        item: Line of the grid, as in ``configure``.
        locked: Revisions by ``lock.key`` that models and tasks must have.

    Returns:
        The plugin with checked options and its identity.

    Raises:
        BenchError: Lists every error in the item, or because the lock differs.
    """
    name, plugin, instance = configure(kind, item)
    options = dumps(canonical(instance))
    revision = ""
    if kind != "method":
        key = lock.key(kind, name, options)
        # The plugin moves to the locked revision first; ``check`` then compares what is
        # really there, so that a plugin that cannot move gives an error.
        if locked and key in locked and hasattr(instance, "at"):
            instance = instance.at(locked[key])
        revision = _seen(kind, instance)
        lock.check(locked or {}, key, revision)
    # For the memory of plans, which can check content only, and packaged code only.
    checked = kind == "method" or getattr(instance, "by_content", False)
    if not (plugin.packaged and checked):
        identity.record("elsewhere", f"{kind} {name}")
    part = PluginSpec(
        name=name,
        plugin=plugin.name,
        options=options,
        # Version, revision and protocol enter the trial's id: a change of any of them
        # makes other trials, and no stored number is reused.
        version=plugin.version,
        revision=revision,
        protocol=dumps(instance.protocol()) if kind == "task" else "",
    )
    return ConfiguredPlugin(part=part, plugin=plugin, instance=instance)


# A context variable and not an argument, since the code that asks for a revision is far
# below the command that tolerates its absence.
_unseen: ContextVar[list[str] | None] = ContextVar("unseen", default=None)


@contextmanager
def tolerate_unseen() -> Iterator[list[str]]:
    """Plan for models and data that are not on this machine.

    Yields:
        What is missing and how to have it; ids of trials that need it are not final.
    """
    missing: list[str] = []
    token = _unseen.set(missing)
    try:
        yield missing
    finally:
        _unseen.reset(token)


def overlaps(
    spec: CalibrationSpec, tasks: Iterable[ConfiguredPlugin | None]
) -> list[str]:
    """Names the tasks that evaluate the text which calibration reads.

    Args:
        spec: The calibration of a block whose methods read it.
        tasks: The tasks of the block; a task that evaluates one text says so by an
            attribute ``text``.

    Returns:
        One error for each such task; none if the grid allows it.
    """
    from harness.toolkit import texts

    if spec.overlap == "allow":
        return []
    return [
        f"calibration reads the text {spec.text!r}, and task {task.part.name} "
        f"evaluates {task.instance.text!r}: methods would learn from the test data. "
        "Name another calibration text, or write `overlap: allow` in the calibration"
        for task in tasks
        if task is not None
        and hasattr(task.instance, "text")
        and texts.overlap(spec.text, task.instance.text)
    ]


def pinned_text(name: str, pinned: str) -> str:
    """The identity of a calibration text on this machine.

    Args:
        name: As ``harness.toolkit.texts`` reads it.
        pinned: The identity that a grid asks for; empty takes any.

    Returns:
        ``sha256:`` and 16 hexadecimal digits.

    Raises:
        BenchError: If there is no such text, or its content is not the pinned one.
    """
    from harness.toolkit import texts

    found = _here(lambda: texts.fingerprint(name))
    if pinned and found not in (pinned, UNSEEN):
        raise BenchError(texts.differs(name, found, pinned))
    return found


def _here(find: Callable[[], str]) -> str:
    """An identity on this machine; noted as missing where the plan tolerates it."""
    missing = _unseen.get()
    try:
        return find()
    except BenchError as why:
        if missing is None:
            raise
        missing.extend(m for m in why.errors if m not in missing)
        identity.record("unseen", str(why))
        return UNSEEN


def _seen(kind: str, instance: Any) -> str:
    return _here(lambda: _revision(kind, instance))


def _revision(kind: str, instance: Any) -> str:
    return str(instance.revision() if kind == "model" else instance.fingerprint())

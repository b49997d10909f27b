"""One line of a grid: a plugin with its options, and the revision it has here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.core import BenchError
from harness.declarations import WrongDeclaration, anything, ask, declared
from harness.options import canonical, dumps
from harness.planning import lock
from harness.planning.trial import PluginSpec
from harness.registry import Plugin, facts, resolve
from harness.toolkit import identity

if TYPE_CHECKING:
    from harness.toolkit.calibration import CalibrationSpec

# Asked again by the schedule and for each row; a wrong answer is an error of the grid.
_EARLY: Mapping[str, tuple[str, ...]] = {
    "method": ("members",),
    "model": ("paths", "shape", "stored_params"),
    "task": ("paths", "members", "text"),
}
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
        return self._declared("refuses", method.facts)

    def refuses_task(self, task: ConfiguredPlugin) -> str | None:
        """Why this model cannot be built for a task, before any data is read."""
        return self._declared("refuses_task", task.instance)

    def _declared(self, hook: str, *arguments: Any) -> Any:
        return declared(str(self.plugin), self.instance, hook, *arguments)

    def measuring(self, model: ConfiguredPlugin) -> PluginSpec:
        """Returns this task as it measures a model, whose family may set a default.

        What the family sets becomes an option of the trial: the row says it, and the
        trial is that of a user who writes the option.
        """
        family = model._declared("family")
        task = self._declared("suited", family)
        if task is None:
            return self.part
        return replace(
            self.part,
            options=_options(self.plugin, task),
            protocol=_protocol(str(self.plugin), task),
        )


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
    label = declared(str(plugin), instance, "label")
    return label or item["name"], plugin, instance


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
    owner, options = str(plugin), _options(plugin, instance)
    revision = ""
    if kind != "method":
        key = lock.key(kind, name, options)
        # The plugin moves to the locked revision first; ``check`` then compares what is
        # really there, so that a plugin that cannot move gives an error.
        if locked and key in locked and hasattr(instance, "at"):
            instance = declared(owner, instance, "at", locked[key])
        revision = _here(lambda: revision_of(plugin, instance))
        lock.check(locked or {}, key, revision)
    # For the memory of plans, which can check content only, and packaged code only.
    checked = kind == "method" or declared(owner, instance, "by_content")
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
        protocol=_protocol(owner, instance) if kind == "task" else "",
    )
    for hook in _EARLY[kind]:
        declared(owner, instance, hook)
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
        if missing is None or isinstance(why, WrongDeclaration):
            raise
        missing.extend(m for m in why.errors if m not in missing)
        identity.record("unseen", str(why))
        return UNSEEN


def _options(plugin: Plugin, instance: Any) -> str:
    found = partial(canonical, instance)
    return dumps(ask(str(plugin), "its options", found, anything))


def _protocol(owner: str, instance: Any) -> str:
    return dumps(declared(owner, instance, "protocol"))


def revision_of(plugin: Plugin, instance: Any) -> str:
    """The revision of a model, or the fingerprint of a task's data, on this machine.

    Args:
        plugin: The plugin.
        instance: The plugin with its options.

    Returns:
        What enters the identity of trials.
    """
    hook = "revision" if plugin.kind == "model" else "fingerprint"
    return str(declared(str(plugin), instance, hook))


def unmet(
    method_: Plugin,
    model_: Plugin,
    task_: Plugin,
    declared: Mapping[str, Any] | None = None,
) -> str | None:
    """Why this method, model and task do not go together, or None.

    Args:
        method_: The method with its declared facts.
        model_: The model family with its declared facts.
        task_: The task with its declared facts.
        declared: The configured method's own facts, where they differ (a chain).

    Returns:
        One sentence, or None if they fit.
    """
    wants = method_.facts if declared is None else declared
    kind = model_.facts["kind"]
    if task_.facts["kind"] not in (kind, "any"):
        return (
            f"task {task_.name} measures a {task_.facts['kind']}, "
            f"and model {model_.name} is a {kind}"
        )
    if kind not in wants["kinds"]:
        wanted = " or ".join(sorted(wants["kinds"]))
        return f"method {method_.name} treats a {wanted}, not a {kind}"
    missing = wants["needs"] - model_.facts["gives"] - task_.facts["gives"]
    if missing:
        return (
            f"method {method_.name} needs {', '.join(sorted(missing))}, which neither "
            f"model {model_.name} nor task {task_.name} gives"
        )
    return None

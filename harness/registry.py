"""Plugins are found, not listed: the name in a grid is the module that holds it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from harness import declarations
from harness.core import BenchError, Kind
from harness.declarations import ask, declared
from harness.options import build, defaults, nearest

T = TypeVar("T", bound=type)
_SETS = ("needs", "kinds", "gives")  # declared as any collection of texts
PACKAGES = {"method": "methods", "task": "tasks", "model": "harness.models"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What a decorator recorded of a plugin class.

    Args:
        kind: ``method``, ``task`` or ``model``.
        name: As grids write it.
        cls: The dataclass whose fields are the options.
        version: Raised by hand when a change alters the numbers; part of identity.
        facts: What the plugin declares (``needs``, ``gives``, ``ratio_of`` ...).
    """

    kind: str
    name: str
    cls: type
    version: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def build(self, options: Mapping[str, Any]) -> Any:
        """The plugin with these options; BenchError lists every error in them."""
        made = partial(build, self.kind, self.name, self.cls, options)
        return ask(str(self), "making it with its options", made, declarations.anything)

    @property
    def packaged(self) -> bool:
        """Whether the class is in a file of the project."""
        return self.cls.__module__.startswith(tuple(f"{p}." for p in PACKAGES.values()))

    @property
    def summary(self) -> str:
        """The first line of the class docstring."""
        return (self.cls.__doc__ or "").strip().partition("\n")[0]


_plugins: dict[tuple[str, str], Plugin] = {}
_sought: set[tuple[str, str]] = set()  # names whose packaged module was looked for


def _register(plugin: Plugin) -> None:
    old = _plugins.get((plugin.kind, plugin.name))
    if old is not None and _source(old.cls) != _source(plugin.cls):
        raise BenchError(
            f"two {plugin.kind}s are called {plugin.name!r}: "
            f"{old.cls.__module__} and {plugin.cls.__module__}"
        )
    _plugins[plugin.kind, plugin.name] = plugin


def _source(cls: type) -> str:
    """Returns the file that defines a class, however it was imported."""
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", None) or cls.__module__


def method(  # noqa: PLR0913 - what a method declares, all by keyword
    name: str,
    *,
    ratio_of: str,
    needs: Iterable[str] = (),
    kinds: Iterable[Kind] = ("causal_lm", "classifier", "seq2seq"),
    stochastic: bool = False,
    tolerance: float = 0.05,
    version: int = 1,
) -> Callable[[T], T]:
    """Declare a compression method.

    Args:
        name: As grids write it.
        ratio_of: What the ratio is a share of; one of ``RATIO_OF``. ``none`` means
            that the method has the single ratio 0.
        needs: What it reads: ``calibration`` (tokens and Gram statistics of a
            language model), ``training_data``, and roles that the model must have
            (``linears``, ``convs``, ``exits``, ``recurrent``; ``units`` and ``width``
            as ``harness.toolkit.roles.ONE_EACH`` says).
        kinds: The kinds of model that it can treat.
        stochastic: Whether the seed changes its result on a pretrained model.
        tolerance: How far the achieved ratio may stay from the requested ratio.
        version: Raise when a change alters the numbers.

    Returns:
        The class decorator; the class becomes a dataclass of its options.

    Raises:
        BenchError: If a declaration is wrong.
    """
    facts = {
        "ratio_of": ratio_of,
        "needs": needs,
        "kinds": kinds,
        "stochastic": stochastic,
        "tolerance": tolerance,
    }
    return _decorator("method", name, version, facts)


def task(
    name: str, *, kind: Kind, gives: Iterable[str] = (), version: int = 1, **facts: Any
) -> Callable[[T], T]:
    """Declare a task.

    Args:
        name: As grids write it, protocol included (``wikitext2-2048``).
        kind: The kind of model that it measures; ``any`` for speed and memory.
        gives: What a method may read from it: ``training_data``.
        version: Raise when a change alters the numbers.
        **facts: ``exclusive=True`` for a measurement that needs the device alone.

    Returns:
        The class decorator; the class becomes a dataclass of its options.

    Raises:
        BenchError: If a declaration is wrong.
    """
    return _decorator("task", name, version, {"kind": kind, "gives": gives, **facts})


def model(
    name: str,
    *,
    kind: Kind,
    gives: Iterable[str] = (),
    trained: bool = False,
    version: int = 1,
    **facts: Any,
) -> Callable[[T], T]:
    """Declare a model family.

    Args:
        name: As grids write it.
        kind: What its networks do.
        gives: Roles that methods may need (``linears``, ``convs``, ``exits`` ...), and
            ``calibration`` for language models.
        trained: Whether it is trained here (then its dense checkpoint is an artifact).
        version: Raise when a change alters the numbers.
        **facts: ``fallback=True`` for a family that claims names; see ``resolve``.

    Returns:
        The class decorator; the class becomes a dataclass of its options.

    Raises:
        BenchError: If a declaration is wrong.
    """
    known = {"kind": kind, "gives": gives, "trained": trained}
    return _decorator("model", name, version, {**known, **facts})


def _decorator(
    kind: str, name: str, version: int, facts: Mapping[str, Any]
) -> Callable[[T], T]:
    owner = f"{kind} {name!r}"
    ask(owner, "its name", lambda: name, declarations.text)
    ask(owner, "its version", lambda: version, declarations.whole)
    of_method = kind == "method"
    check = declarations.facts_of_method if of_method else declarations.facts_of_others
    ask(owner, "its declaration", lambda: facts, check)
    sets = {key: frozenset(facts[key]) for key in _SETS if key in facts}

    def register(cls: T) -> T:
        made: T = dataclass(frozen=True, kw_only=True)(cls)  # type: ignore[assignment]
        ask(owner, "an option", lambda: defaults(made), declarations.anything)
        _register(
            Plugin(
                kind=kind, name=name, cls=made, version=version, facts={**facts, **sets}
            )
        )
        return made

    return register


def _external() -> Iterator[Path]:
    """The plugin files named by SHRINKGRID_PLUGINS (files or folders)."""
    for name in filter(
        None, os.environ.get("SHRINKGRID_PLUGINS", "").split(os.pathsep)
    ):
        path = Path(name)
        yield from sorted(path.glob("[!_]*.py")) if path.is_dir() else (path,)


@cache
def _load_external() -> None:
    """Import the plugin files named by the environment, once per process."""
    for path in _external():
        if path.suffix != ".py" or not path.is_file():
            raise BenchError(
                f"SHRINKGRID_PLUGINS names {path}, which is not a Python file"
            )
        plugins_of_file(path)


def plugins_of_file(path: Path) -> list[Plugin]:
    """Import a file with plugins.

    Args:
        path: A file that ends in .py, not necessarily in a package.

    Returns:
        The plugins that it defines.

    Raises:
        BenchError: If it does not import.
    """
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as why:  # named, as in ``discover``
        raise _unimportable(f"plugin {path}", why) from why
    return _defined_in(spec.name)


def plugins_of_module(name: str) -> list[Plugin]:
    """Import a module with plugins.

    Args:
        name: As ``import`` takes it: ``my_package.my_method``.

    Returns:
        The plugins that it defines.

    Raises:
        BenchError: If it does not exist, or does not import.
    """
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as why:
        if name == why.name or name.startswith(f"{why.name}."):
            raise BenchError(
                f"Python finds no module {why.name}: install the package, or run this "
                "in the folder that contains it"
            ) from why
        raise _unimportable(f"module {name}", why) from why
    except (Exception, SystemExit) as why:  # named, as in ``discover``
        raise _unimportable(f"module {name}", why) from why
    return _defined_in(name)


def _unimportable(what: str, why: BaseException) -> BenchError:
    # A wrong declaration says itself what is wrong.
    said = why if isinstance(why, BenchError) else f"{type(why).__name__}: {why}"
    return BenchError(f"{what} does not import: {said}")


def _defined_in(module: str) -> list[Plugin]:
    """The plugins of a module or, if it is a package, of its modules."""
    return [
        plugin
        for plugin in _plugins.values()
        if f"{plugin.cls.__module__}.".startswith(f"{module}.")
    ]


@cache
def discover(kind: str) -> Mapping[str, Plugin]:
    """Every plugin of a kind, by name; imports them all.

    Args:
        kind: ``method``, ``task`` or ``model``.

    Returns:
        Name -> plugin, sorted by name.

    Raises:
        BenchError: Naming every plugin that fails to import.
    """
    broken: list[str] = []
    _load_external()
    package = importlib.import_module(PACKAGES[kind])
    modules = [
        f"{PACKAGES[kind]}.{info.name}"
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_")
    ]
    for name in modules:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as why:  # listed in the error below
            broken += _unimportable(f"{kind} {name}", why).errors
    for point in entry_points(group=f"shrinkgrid.{kind}s"):
        try:
            point.load()
        except (Exception, SystemExit) as why:  # as above
            broken += _unimportable(f"{kind} {point.value}", why).errors
    if broken:
        raise BenchError(*broken)
    found = {name: p for (k, name), p in _plugins.items() if k == kind}
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Plugin:
    """One plugin by name, importing only its own module where the name says which.

    Args:
        kind: ``method``, ``task`` or ``model``.
        name: As a grid writes it.

    Returns:
        The plugin.

    Raises:
        BenchError: If there is none; offers the nearest name.
    """
    _load_external()
    if (kind, name) not in _sought:  # also where a plugin has a packaged one's name
        module = f"{PACKAGES[kind]}.{_module_name(name)}"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as why:
            if why.name != module:
                raise _unimportable(f"{kind} {name!r}", why) from why
        _sought.add((kind, name))
    if (kind, name) in _plugins:
        return _plugins[kind, name]
    everything = discover(kind)
    if name not in everything:
        raise BenchError(nearest(kind, name, everything))
    return everything[name]


def resolve(kind: str, name: str) -> tuple[Plugin, dict[str, Any]]:
    """The plugin for a name in a grid, and the options that the name itself implies.

    A plugin declared with ``fallback=True`` has a static method ``claim(name)`` that
    returns the options implied by a name that no module carries (a Hugging Face id, a
    task of lm-eval), or None. Its attribute ``names``, if it has one, says in an error
    which further names it claims.

    Args:
        kind: ``method``, ``task`` or ``model``.
        name: As a grid writes it.

    Returns:
        The plugin and the implied options.

    Raises:
        BenchError: If no plugin has or claims the name; offers the nearest.
    """
    try:
        return find(kind, name), {}
    except BenchError as why:
        hints = []
        for plugin in discover(kind).values():
            if plugin.facts.get("fallback"):
                options = declared(str(plugin), plugin.cls, "claim", name)
                if options is not None:
                    return plugin, options
                hints += [declared(str(plugin), plugin.cls, "names")]
        raise BenchError(" ".join(filter(None, [str(why), *hints]))) from why


def facts(plugin: Plugin, instance: Any) -> Mapping[str, Any]:
    """What a configured plugin declares; a chain's facts depend on its members."""
    own: Mapping[str, Any] | None = declared(str(plugin), instance, "facts")
    return plugin.facts if own is None else own


def _module_name(name: str) -> str:
    """The module that a plugin name points at first.

    >>> _module_name("smollm2-135m")
    'smollm2_135m'
    """
    return re.sub(r"\W", "_", name)

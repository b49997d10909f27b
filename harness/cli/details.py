"""`show`, `compare`, `describe`: one trial, two trials, one plugin."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from harness.cli import _complete
from harness.cli._common import on_store

if TYPE_CHECKING:
    from harness.registry import Plugin
    from results.storage.store import Store

_KINDS = ("method", "task", "model")
_WIDTH = 79
_LAST = 12  # lines of a traceback


@click.command()
@click.argument("trial", shell_complete=_complete.trials)
@on_store
def show(store: Store, trial: str) -> None:
    """Show all that is stored of TRIAL (an id, or its start).

    What was run, its numbers and sizes, where it ran, its attempts, and the command
    that runs it again.
    """
    from results.boards import trial_page
    from results.queries.trial_ids import find
    from results.text.clean import clean

    wanted = find(store, trial)
    page = trial_page.trials(store, [wanted])[wanted]
    for line in _shown(page):
        click.echo(clean(line))


def _shown(page: Mapping[str, Any]) -> Iterator[str]:
    """The lines of ``show``."""
    from results.text.formats import number

    yield f"trial {page['trial']}  {page['status']}"
    if page["reason"]:
        yield from _wrapped("reason", page["reason"])
    achieved = page["achieved"]
    got = "" if achieved is None else f", achieved {number(achieved)}"
    yield from _wrapped("method", page["method"])
    yield from _wrapped("model", page["model"])
    yield from _wrapped("task", page["task"])
    yield from _wrapped("ratio", f"{page['ratio']} of {page['ratio_of']}{got}")
    yield from _wrapped("seed", page["seed"])
    yield from _wrapped("grid", page["grid"])
    if page["metrics"]:
        yield ""
        yield "numbers"
        numbers = {}
        for one in page["metrics"]:
            error = "" if one["stderr"] is None else f" ± {number(one['stderr'])}"
            unit = "" if one["unit"] in (None, "1") else f" {one['unit']}"
            samples = "" if one["n"] is None else f"  (n {one['n']:,})"
            numbers[one["metric"]] = f"{number(one['value'])}{error}{unit}{samples}"
        yield from _aligned(numbers)
    yield from _sizes(page["sizes"])
    if page["layers"]:
        yield ""
        yield from _layers(page["layers"])
    facts = {k: v for k, v in page["facts"].items() if v is not None and k != "node"}
    yield ""
    yield "where and how long"
    for name, value in facts.items():
        shown = f"{value:,}" if name.endswith("bytes") else value
        facts[name] = number(value) if isinstance(value, float) else shown
    yield from _aligned(facts)
    if len(page["attempts"]) > 1:
        yield ""
        yield "attempts"
        for one in page["attempts"]:
            why = f": {one['reason']}" if one["reason"] else ""
            yield from _wrapped(str(one["started_at"]), f"{one['status']}{why}", 28)
    if page["traceback"]:
        yield ""
        lines = page["traceback"].rstrip().splitlines()
        yield f"traceback, last {min(len(lines), _LAST)} of {len(lines)} lines"
        yield from (f"  {line}" for line in lines[-_LAST:])
    if page["log"]:
        yield ""
        yield "what its process printed"
        yield f"  shrinkgrid logs {page['trial']}"
    yield ""
    yield "to run it again"
    yield f"  {page['command']}"


def _sizes(found: Mapping[str, Any]) -> Iterator[str]:
    """The sizes of the network, dense and compressed; nothing where none is known."""
    from results.text.formats import DASH

    known = {name: pair for name, pair in found.items() if pair[1] is not None}
    if known:
        yield ""
        yield "sizes, dense and compressed"
        before = {
            n: DASH if dense is None else f"{dense:,}"
            for n, (dense, _) in known.items()
        }
        yield from _aligned(
            {n: f"{before[n]} -> {now:,}" for n, (_, now) in known.items()}
        )


def _layers(found: Mapping[str, Any]) -> Iterator[str]:
    """What is left of the layers: one line per role, or per layer of an image net."""
    from results.boards.layer_map import summary
    from results.text.formats import number

    shares = {"kept": "parameters kept", "sparsity": "zeros"}
    heads = {"rank": "rank", **shares, "bits": "bits per weight"}
    shown = [name for name in heads if found[name]]
    rows = [["layer", "", *(heads[name] for name in shown)]]
    for row in summary(found):
        cells = [row["name"], f"x{row['layers']}" if row["layers"] > 1 else ""]
        for name in shown:
            ends = row[name] or ()
            texts = [f"{v:.1%}" if name in shares else number(v) for v in ends]
            cells.append(" to ".join(dict.fromkeys(texts)) or "-")
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield "what is left of the layers"
    for cells in rows:
        texts = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        yield "  " + "  ".join(texts).rstrip()


def _column(names: Iterable[str]) -> int:
    """Where values start, so that they are behind the longest of their names."""
    return max([28, *(len(name) + 4 for name in names)])


def _aligned(values: Mapping[str, Any]) -> Iterator[str]:
    """Names and values, all values in one column."""
    for name, value in values.items():
        yield from _wrapped(name, value, _column(values))


def _wrapped(name: str, value: Any, column: int = 12) -> Iterator[str]:
    """``name  value`` on lines that fit 80 columns."""
    head = f"  {name} ".ljust(column)
    text = "-" if value is None else str(value)
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


@click.command()
@click.argument("first", shell_complete=_complete.trials)
@click.argument("second", shell_complete=_complete.trials)
@on_store
def compare(store: Store, first: str, second: str) -> None:
    """Compare the trials FIRST and SECOND (ids, or their starts).

    Prints what differs in their settings and, for each metric that both measured, both
    numbers and their difference. Where both stored a value for each sample, a paired
    test says whether the difference can be chance: McNemar's for values 0 and 1,
    Student's for means such as the loss of a window, else all sign flips of at most 16
    samples and a bootstrap of more; above 1,000 samples its normal limit.
    """
    from results.boards import trial_page
    from results.queries.trial_ids import find
    from results.text.clean import clean

    ids = [find(store, one) for one in (first, second)]
    pages = trial_page.trials(store, ids)
    for line in _compared(*(pages[one] for one in ids)):
        click.echo(clean(line))


def _compared(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """The lines of ``compare``."""
    from results.tables.statistics import compare as paired
    from results.text.formats import number

    for letter, page in (("A", a), ("B", b)):
        named = f"{page['method']} on {page['model']}, {page['task']}"
        about = f"{named}, ratio {page['ratio']}, seed {page['seed']}"
        yield from _wrapped(f"{letter}  {page['trial'][:8]}", about, 16)
    yield ""
    yield "settings that differ"
    differing = {name: f"A {one}   B {other}" for name, one, other in _differing(a, b)}
    yield from _aligned(differing)
    if not differing:
        yield "  none: these are two trials of equal settings"
    if a["protocol_fields"] != b["protocol_fields"]:
        yield "  the protocols differ, so the numbers do not compare"
    numbers = [{m["metric"]: m for m in page["metrics"]} for page in (a, b)]
    samples = [{s["metric"]: s for s in page["samples"]} for page in (a, b)]
    both = [name for name in numbers[0] if name in numbers[1]]
    yield ""
    yield "numbers of both" if both else "they measured no metric in common"
    column = _column(both)
    for name in both:
        one, other = (n[name]["value"] for n in numbers)
        change = f"B - A {number(other - one)}"
        line = f"A {number(one)}   B {number(other)}   {change}"
        yield from _wrapped(name, line, column)
        values = [s[name]["values"] if name in s else [] for s in samples]
        whole = all(
            name in s and len(s[name]["values"]) == s[name]["n"] for s in samples
        )
        if whole and values[0] and len(values[0]) == len(values[1]):
            p, test = paired(values[0], values[1], means=samples[0][name]["means"])
            sign = -1 if numbers[0][name]["goal"] == "min" else 1
            pairs = list(zip(*values, strict=True))
            wins = sum(sign * y > sign * x for x, y in pairs)
            losses = sum(sign * y < sign * x for x, y in pairs)
            told = "not distinguishable" if p > 0.05 else "different"
            line = (
                f"of {len(pairs):,} samples B is better in {wins:,}, worse in "
                f"{losses:,}; paired {test}: p = {number(p)}, {told} at 5 %"
            )
            yield from _wrapped("", line, column)


def _differing(
    a: Mapping[str, Any], b: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Path and both values, as YAML has them, of each field that differs."""
    from harness.cli._describe import as_yaml
    from harness.planning.explain import flatten

    flat = [
        flatten(page["identity"] if isinstance(page["identity"], dict) else {})
        for page in (a, b)
    ]
    for name in dict.fromkeys([*flat[0], *flat[1]]):
        one, other = (as_yaml(part[name]) if name in part else "-" for part in flat)
        if one != other:
            yield name, one, other


@click.command()
@click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="[method|task|model] NAME",
    shell_complete=_complete.plugins,
)
def describe(words: tuple[str, ...]) -> None:
    """Describe a method, task or model, and its options."""
    from harness.core import BenchError
    from harness.options import nearest
    from harness.registry import discover

    if len(words) > 2 or (len(words) == 2 and words[0] not in _KINDS):
        raise click.UsageError("write one name, or method, task or model and a name")
    name = words[-1]
    kinds = words[:1] if len(words) == 2 else _KINDS
    found = [plugins[name] for k in kinds if name in (plugins := discover(k))]
    if not found:
        other = next((k for k in _KINDS if name in discover(k)), None)
        hint = "" if other is None else f"{name} is a {other}; "
        known = [one for kind in kinds for one in discover(kind)]
        raise BenchError(hint + nearest(" or ".join(kinds), name, known))
    for plugin in found:
        for line in _described(plugin):
            click.echo(line)


def _described(plugin: Plugin) -> Iterator[str]:
    """The lines of ``describe``."""
    from harness.cli import _describe

    yield f"{plugin.kind} {plugin.name}"
    yield ""
    yield from _describe.body(plugin.cls.__doc__).splitlines()
    facts = {
        "ratio of": plugin.facts.get("ratio_of"),
        "kind": plugin.facts.get("kind"),
        "needs": plugin.facts.get("needs"),
        "treats": plugin.facts.get("kinds"),
        "provides": plugin.facts.get("gives"),
    }
    yield ""
    for name, value in facts.items():
        if value:
            listed = value if isinstance(value, str) else ", ".join(sorted(value))
            yield from _wrapped(name, listed)
    options = _describe.options(plugin.cls)
    yield ""
    yield "options" if options else "no options"
    for one in options:
        default = "required" if one.default is None else f"default {one.default}"
        yield from _wrapped(one.name, f"{one.type}; {default}", 4)
        yield from textwrap.wrap(
            one.meaning, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )

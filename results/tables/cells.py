"""One cell of a table: which stored trials it is, what they measured, a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from results.tables.published import model_ids
from results.tables.statistics import mean_interval
from results.text import json_reader
from results.text.labels import label

NEAR = 0.0051  # ratios closer than this are the same; tables print whole per cents
# Trials that differ in these are not seeds of one another.
_SAME = (
    "method_options",
    "model_options",
    "task",
    "task_options",
    "protocol",
    "calibration",
    "dtype",
)
_NORMAL = 1.959964  # two-sided 95 % of a normal

REPRODUCED = "reproduced"
WITHIN = "within interval"
PROTOCOL = "protocol differs"
DIFFERS = "not reproduced"
NOT_RUN = "not run"
SUBSTITUTE = "other model"
ABSENT = "no such trial in the store"
UNMEASURED = "no trial measures this"
NO_CLAIM = ""  # nothing is published to compare with
VERDICTS = (REPRODUCED, WITHIN, PROTOCOL, DIFFERS, NOT_RUN, SUBSTITUTE)


@dataclass(slots=True, kw_only=True)
class Cell:
    """A cell of a table, with the published number and the measured one.

    Args:
        published: As printed, None where nothing is.
        measured: Mean over seeds in the table's unit, None where there is none.
        low: Lower end of the 95 % interval.
        high: Upper end of the interval.
        seeds: Number of trials in the mean.
        digits: Number of decimals to print.
        goal: ``min`` or ``max`` is better.
        verdict: One of ``VERDICTS``, or empty where nothing is published.
        reason: Why there is no number, or which protocol fields differ.
        key: What ``verify`` needs to compute the number again.
        attempts: Behind the number, for paired tests.
        rank: 1 for the best of its column and group, 2 for the second.
        like_best: Whether a test cannot tell it from the best.
        beside: Options of the trials that the table does not state, as in a label.
    """

    published: str | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    digits: int = 4
    goal: str = "max"
    verdict: str = NO_CLAIM
    reason: str = ""
    key: dict[str, Any] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)
    rank: int = 0
    like_best: bool = False
    beside: str = ""

    @property
    def text(self) -> str | None:
        """The measured number as a table prints it."""
        return None if self.measured is None else f"{self.measured:.{self.digits}f}"


def number(printed: str | None) -> float | None:
    """The number in a printed cell; None if it holds none, like ``OOM``.

    >>> [number(text) for text in ("5.68", "20.04M", "OOM", None, "8.2e9")]
    [5.68, 20.04, None, None, 8200000000.0]
    """
    if printed is None:
        return None
    try:
        return float(str(printed).removesuffix("M"))
    except ValueError:
        return None


def decimals(printed: str | None) -> int:
    """Digits after the point of a printed number.

    >>> decimals("5.70"), decimals("20061"), decimals("20.04M")
    (2, 0, 2)
    """
    if number(printed) is None or "e" in str(printed).lower():
        return 4 if printed is None else 0
    return len(str(printed).removesuffix("M").partition(".")[2])


def fill(
    wanted: Mapping[str, Any],
    printed: str | None,
    scores: Iterable[Mapping[str, Any]],
    *,
    substitutes: Mapping[str, str],
) -> Cell:
    """Find the trials that a cell is about, and build the cell from their numbers.

    Args:
        wanted: Keys as in ``published.WANTED``: model, method, ratio, task, metric ...
        printed: The number that the paper printed.
        scores: Rows of the store: one per trial and metric, also of failed trials.
        substitutes: Model of the table -> the one that was really run.

    Returns:
        The cell with its verdict.
    """
    cell = Cell(
        published=printed, digits=decimals(printed), goal=wanted.get("goal", "max")
    )
    # The cell states neither what to measure nor a column of the trial.
    if wanted.get("metric") is None and wanted.get("column") is None:
        cell.verdict, cell.reason = NOT_RUN, UNMEASURED
        return cell
    # Trials of the same method, ratio and data first; which protocol they had is
    # decided later, so that a cell can say "protocol differs" instead of "not run".
    found = [s for s in scores if _is_trial(s, wanted, substitutes)]
    column = wanted.get("column") or "value"
    measured = [s for s in found if s[column] is not None and s["status"] == "ok"]
    if not measured:
        cell.verdict = NOT_RUN
        cell.reason = next((_why_not(s) for s in found), ABSENT)
        return cell
    group, differing = _nearest(measured, wanted)
    _measure(cell, group, wanted)
    given = json_reader.mapping(group[0]["method_options"])
    more = _beyond(given, wanted.get("options") or {})
    cell.beside = label("", json.dumps(more)).strip()
    substituted = wanted.get("model") in substitutes
    cell.verdict, cell.reason = _verdict(cell, differing, wanted, substituted)
    return cell


def average(cells: Sequence[Cell], printed: str | None) -> Cell:
    """The cell with the mean of others in its row; without a number if one has none."""
    goal = cells[0].goal if cells else "max"
    cell = Cell(published=printed, digits=decimals(printed), goal=goal)
    if not cells or any(part.measured is None for part in cells):
        cell.verdict, cell.reason = NOT_RUN, "not every task of the mean was run"
        return cell
    cell.measured = math.fsum(part.measured or 0.0 for part in cells) / len(cells)
    errors = [((c.high or 0.0) - (c.low or 0.0)) / 2 for c in cells]
    # The error of a mean of independent numbers: root of the sum of squares over their
    # count.
    reach = math.hypot(*errors) / len(cells)
    cell.low, cell.high = cell.measured - reach, cell.measured + reach
    cell.seeds = min(part.seeds for part in cells)
    cell.key = {"mean": [part.key for part in cells], "digits": cell.digits}
    differing = {part.reason for part in cells if part.verdict == PROTOCOL}
    substituted = any(part.verdict == SUBSTITUTE for part in cells)
    cell.verdict, cell.reason = _verdict(cell, sorted(differing), {}, substituted)
    return cell


def of_trials(group: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> Cell:
    """The cell of given trials, with nothing published beside it.

    Args:
        group: Scores of one configuration, one per seed.
        wanted: ``metric`` or ``column``, and ``goal``.

    Returns:
        The cell, without a verdict.
    """
    cell = Cell(goal=wanted.get("goal", "max"))
    _measure(cell, group, wanted)
    return cell


def _is_trial(
    score: Mapping[str, Any], wanted: Mapping[str, Any], substitutes: Mapping[str, str]
) -> bool:
    model = str(wanted.get("model"))
    # A substitute replaces the model; otherwise any name counts that the store may have
    # for it.
    models = (substitutes[model],) if model in substitutes else model_ids(model)
    if score["model"] not in models or score["method"] != wanted.get("method"):
        return False
    ratio = wanted.get("ratio")
    # The dense network has ratio 0 in every row of a table.
    if score["method"] != "dense" and (
        ratio is None or abs(score["ratio"] - ratio) > NEAR
    ):
        return False
    given = json_reader.mapping(score["method_options"])
    if not _fits(given, wanted.get("options") or {}):
        return False
    if not _same_task(score, wanted.get("task")):
        return False
    return score["metric"] in (wanted.get("metric"), None) or "column" in wanted


def _fits(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether options are those that are wanted; None wants an option's default.

    >>> _fits({"lora": {"epochs": 1}}, {"lora": {}}), _fits({}, {"lora": {}})
    (True, False)
    >>> _fits({"bits": 4}, {"bits": None}), _fits({}, {"bits": None})
    (False, True)
    """
    for key, value in wanted.items():
        own = given.get(key)
        if isinstance(own, Mapping) and isinstance(value, Mapping):
            if not _fits(own, value):
                return False
        elif own != value:
            return False
    return True


def _beyond(given: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not stated, also those inside a mapping that is.

    >>> _beyond({"lora": {"rank": 4, "epochs": 1}, "bits": 3}, {"lora": {"epochs": 1}})
    {'lora': {'rank': 4}, 'bits': 3}
    """
    found = {}
    for key, value in given.items():
        if key not in stated:
            found[key] = value
        elif isinstance(value, Mapping) and isinstance(stated[key], Mapping):
            inner = _beyond(value, stated[key])
            found |= {key: inner} if inner else {}
    return found


def _same_task(score: Mapping[str, Any], task: str | None) -> bool:
    """The same data; whether the protocol is the same too is for the verdict."""
    if task is None:
        return False
    # A task of lm-eval has its name among the options.
    if score["task"] == "lm_eval":
        return task in json_reader.mapping(score["task_options"]).values()
    # ``wikitext2-2048`` and ``wikitext2-4096`` read the same data.
    return bool(score["task"].split("-")[0] == task.split("-")[0])


def _nearest(
    scores: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The seeds of one configuration: the nearest to what is wanted."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for score in scores:
        groups.setdefault(tuple(score[part] for part in _SAME), []).append(score)

    def distance(group: list[Mapping[str, Any]]) -> tuple[int, int, int]:
        given = json_reader.mapping(group[0]["method_options"])
        differing = _differing(group[0], wanted)
        # The fewest differing fields of the protocol, then the fewest options, then the
        # most seeds.
        return (len(differing), len(given), -len(group))

    best = min(groups.values(), key=distance)
    if "column" in wanted:  # of a trial, not of each of its metrics
        best = list({score["trial"]: score for score in best}.values())
    return best, _differing(best[0], wanted)


def _differing(score: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The protocol fields in which a trial is not what the table says."""
    if "column" in wanted:
        return []
    stored = json_reader.mapping(score["protocol_fields"])
    stated = wanted.get("protocol") or {}
    fields = [k for k, v in stated.items() if k in stored and stored[k] != v]
    # A run on the first n samples only is another protocol than the paper's.
    if stored.get("limit") is not None and "limit" not in stated:
        fields.append("limit")
    if not fields and score["task"] not in (wanted.get("task"), "lm_eval"):
        fields.append(f"task {score['task']}")
    return fields


def _measure(
    cell: Cell, group: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> None:
    column = wanted.get("column")
    scale, offset = float(wanted.get("scale", 1)), float(wanted.get("offset", 0))
    values = [offset + scale * score[column or "value"] for score in group]
    estimate = mean_interval(values)
    reach = (estimate.high - estimate.low) / 2
    if len(values) == 1 and not column:
        # With one seed the interval is over the samples: 1.96 standard errors.
        reach = abs(scale) * (group[0]["sample_stderr"] or 0.0) * _NORMAL
    cell.measured = math.fsum(values) / len(values)
    cell.low, cell.high = estimate.mean - reach, estimate.mean + reach
    cell.seeds = len(values)
    if cell.published is None or number(cell.published) is None:
        cell.digits = _sensible(estimate.mean)
    by_seed = sorted(group, key=lambda score: (score["seed"] or 0, score["attempt"]))
    cell.attempts = [score["attempt"] for score in by_seed]
    kind = {"column": column} if column else {"metric": wanted["metric"]}
    cell.key = kind | {"trials": sorted(score["trial"] for score in group)}
    cell.key |= {"digits": cell.digits}
    cell.key |= {k: wanted[k] for k in ("scale", "offset") if k in wanted}


def _sensible(value: float) -> int:
    """Decimals that show four significant digits."""
    if value == 0:
        return 2
    # log10 is 0 for 1 to 9.99, which gets three decimals; large numbers get none.
    return min(6, max(0, 3 - math.floor(math.log10(abs(value)))))


def _verdict(
    cell: Cell,
    differing: Sequence[str],
    wanted: Mapping[str, Any],
    substituted: bool,
) -> tuple[str, str]:
    claim = number(cell.published)
    if substituted:
        return SUBSTITUTE, ""
    if claim is None or cell.measured is None or cell.low is None or cell.high is None:
        return NO_CLAIM, ""
    if differing:
        return PROTOCOL, ", ".join(differing)
    # Half a unit of the last printed digit, unless the table states a tolerance.
    tolerance = float(wanted.get("within", 0.5 * 10**-cell.digits))
    # A published 5.68 stands for 5.675 to 5.685; the factor allows for rounding of the
    # ends.
    if abs(cell.measured - claim) <= tolerance * (1 + 1e-9):
        return REPRODUCED, ""
    if cell.low <= claim <= cell.high:
        return WITHIN, ""
    return DIFFERS, ""


def _why_not(score: Mapping[str, Any]) -> str:
    """Why a trial that was attempted has no number."""
    if score["status"] == "ok":
        return "its trial did not measure this"
    reason = " ".join((score["reason"] or "").split())
    return f"{score['status']}: {reason[:80]}" if reason else str(score["status"])

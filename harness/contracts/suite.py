"""The checks of one method, ready to be called: by pytest, or by `shrinkgrid check`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from harness.contracts import checks, samples
from harness.contracts.compressed import Compressed, compress, configured, require
from harness.core import Unsupported
from harness.registry import Plugin, facts, find


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One contract on one sample; calling it raises ``BrokenContract`` if it is broken.

    Args:
        name: Name of the check in ``harness.contracts.checks``.
        sample: Name of the sample; empty for a check that needs none.
        contract: The contract in one sentence.
        run: Runs it.
    """

    name: str
    sample: str
    contract: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run the check.

        Raises:
            BrokenContract: Says what was found.
        """
        self.run()

    def __str__(self) -> str:
        return "-".join(filter(None, [self.sample.replace(" ", "-"), self.name]))

    @property
    def advice(self) -> str:
        """What to do if the check fails."""
        return checks.ADVICE[self.name]


def checks_of(
    method: str | Plugin,
    options: Mapping[str, Any] | None = None,
    coarse: float | None = None,
    *,
    strict: bool = False,
) -> list[Check]:
    """The checks of a method, in the style of scikit-learn's ``check_estimator``.

    A test of a method is three lines:

    .. code-block:: python

        @pytest.mark.parametrize("check", checks_of("my_method"), ids=str)
        def test_contract(check):
            check()

    Args:
        method: The method, or its name in a grid.
        options: What differs from the defaults. Trainings last one epoch anyway.
        coarse: How much farther than its tolerance the achieved ratio may be from the
            requested one on samples of three blocks with matrices of 24 columns.
        strict: Whether a method that refuses the mixture of experts fails, too.

    Returns:
        Checks, with those of one sample side by side; they share its networks, which
        the first one makes.
    """
    plugin = find("method", method) if isinstance(method, str) else method
    given = samples.OPTIONS.get(plugin.name, {}) if options is None else options
    more = samples.COARSE.get(plugin.name, 0.0) if coarse is None else coarse
    instance = configured(plugin, given)
    declared = facts(plugin, instance)
    fits = partial(checks.misfits_are_refused, plugin, declared)
    found = [_check(checks.misfits_are_refused, "", fits)]
    for sample in samples.samples_for(declared):
        may_refuse = sample == samples.MIXTURE and not strict
        run = _unless_refused if may_refuse else _on
        made = _shared(partial(compress, plugin, instance, sample, more))
        found += [
            _check(one, sample, partial(run, one, made))
            for one in checks.CHECKS
            if checks.applies(one, sample, instance, declared)
        ]
    return found


def _check(function: Any, sample: str, run: Callable[[], None]) -> Check:
    contract = (function.__doc__ or "").partition("\n")[0]
    return Check(name=function.__name__, sample=sample, contract=contract, run=run)


def _on(check: Callable[[Compressed], None], made: Callable[[], Compressed]) -> None:
    check(made())


def _unless_refused(
    check: Callable[[Compressed], None], made: Callable[[], Compressed]
) -> None:
    try:
        found = made()
    except Unsupported as why:
        require(
            len(str(why).split()) >= 4, f"it is refused with the reason {why!s:.80}"
        )
    else:
        check(found)


def _shared(make: Callable[[], Compressed]) -> Callable[[], Compressed]:
    """Make the networks once; each check fails with the error of making them."""

    @cache
    def once() -> Compressed | Exception:
        try:
            return make()
        except Exception as why:  # raised again for each check
            return why

    def made() -> Compressed:
        found = once()
        if isinstance(found, Exception):
            raise found
        return found

    return made

"""The table of statuses and error classes, and that SQL compares with its values."""

import re
from pathlib import Path

import pytest
from rich.style import Style

from results import outcomes
from results.outcomes import FINISHED, REPEATED, RETRIES, ErrorClass, Status

ROOT = Path(outcomes.__file__).parents[1]
# A comparison of a status with a literal, in SQL: status = 'ok', status IN ('ok', ...).
COMPARED = re.compile(r"\bstatus\s*(?:=|<>|!=|(?:NOT\s+)?IN)\s*(\(.*?\)|'\w+')", re.I)


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_colour_a_wording_and_a_retry_rule(status):
    assert Style.parse(status.colour)
    assert status.meaning.startswith("it ")
    assert status.retry in {"always", "never", *RETRIES}
    assert status.finished == (status.retry in ("never", "all"))


@pytest.mark.parametrize("error", ErrorClass)
def test_every_error_class_has_a_status_a_wording_and_a_retry_rule(error):
    assert isinstance(error.status, Status)
    assert error.status is not Status.OK
    assert error.meaning
    assert error.tries >= 1
    assert (error.tries > 1) == (error.wait > 0)


def test_what_a_plain_run_repeats_and_what_retry_selects():
    assert {"ok", "unsupported"} == set(FINISHED)
    assert {"lost", "cancelled"} == REPEATED
    assert RETRIES == {
        "failed": ("failed",),
        "oom": ("out_of_memory",),
        "timeout": ("timed_out",),
        "all": ("unsupported", "failed", "out_of_memory", "timed_out"),
    }


def test_a_class_of_another_version_is_never_retried():
    assert ErrorClass.of("of_the_future") is ErrorClass.BUG
    assert ErrorClass.of("oom") is ErrorClass.OOM
    assert ErrorClass.of(None).tries == 1
    assert Status.of("of_the_future") is Status.FAILED
    assert Status.of("lost") is Status.LOST


def test_sql_compares_statuses_with_known_values_and_complete_lists():
    texts = {p: p.read_text() for p in (ROOT / "results").rglob("*.sql")}
    texts |= {p: p.read_text() for p in (ROOT / "results").rglob("*.py")}
    found = [
        (path.name, tuple(re.findall(r"'(\w+)'", literal)))
        for path, text in texts.items()
        for literal in COMPARED.findall(text)
    ]

    assert len(found) > 5
    for name, values in found:
        assert set(values) <= set(Status), name
        if len(values) > 1:  # finished, repeated by any run, or either
            whole = (set(FINISHED), set(REPEATED), {*FINISHED, *REPEATED})
            assert set(values) in whole, name

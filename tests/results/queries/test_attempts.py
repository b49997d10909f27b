"""Which attempt of a trial counts."""

from synthetic import row

from results.queries.attempts import Attempt, read_attempts, read_statuses, statuses_of


def tried(*statuses: str) -> list[Attempt]:
    return [
        Attempt(attempt=str(i), trial="t", status=s, error_class=None, code_digest=None)
        for i, s in enumerate(statuses)
    ]


def test_the_newest_finished_attempt_counts_else_the_newest():
    tries = {
        "a": tried("failed", "ok", "failed"),
        "b": tried("ok", "unsupported", "lost"),
        "c": tried("failed", "lost"),
    }
    assert statuses_of(tries) == {"a": "ok", "b": "unsupported", "c": "lost"}


def test_attempts_are_read_from_the_oldest_to_the_newest(empty):
    empty.append(row("t", minute=5, status="failed", error_class="oom"))
    empty.append(row("t", minute=1, code_digest="c"))
    empty.append(row("u", minute=3))

    found = read_attempts(empty)

    assert {t: [a.status for a in one] for t, one in found.items()} == {
        "t": ["ok", "failed"],
        "u": ["ok"],
    }
    assert [(a.error_class, a.code_digest) for a in found["t"]] == [
        (None, "c"),
        ("oom", None),
    ]
    assert read_statuses(empty) == {"t": "ok", "u": "ok"}

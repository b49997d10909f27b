"""`logs`, as a user types it."""

import pytest
from synthetic import row

from harness.cli import _status
from harness.cli import logs as verb
from results.storage import leases, logs
from results.storage.store import open_store

TEXT = (
    "loading\n"
    + logs.begun("a1", "aaaa0000")
    + "10%\r\x1b[32m100%\x1b[0m\n"
    + logs.begun("a2", "aaab1111")
    + "no newline"
)


@pytest.fixture
def type_(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def types(*words):
        capsys.readouterr()
        status = _status(list(words))
        return status, *capsys.readouterr()

    return types


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "store", create=True)
    for attempt, trial in (("a1", "aaaa0000"), ("a2", "aaab1111"), ("a3", "cccc2222")):
        same = {"attempt": attempt, "trial": trial}
        made.append(row(trial) | same | {"bundle": "b" if trial[0] == "a" else "c"})
    logs.write(made, "b", "run-a1", TEXT)
    return made


def test_the_log_of_a_bundle_says_which_part_is_the_trials(type_, store):
    status, out, err = type_("logs", "aaab")

    assert (status, err) == (0, "")
    assert out == (
        "loading\n== trial aaaa0000 ==\n100%\n"
        "== trial aaab1111 (this trial) ==\nno newline"
    )


def test_show_names_the_command(type_, store):
    assert "shrinkgrid logs aaaa0000" in type_("show", "aaaa")[1]
    assert "shrinkgrid logs" not in type_("show", "cccc")[1]


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("cccc", "trial cccc2222 has no log; a log is stored where"),
        ("eeee", "no trial of "),
    ],
)
def test_no_log_is_told_in_a_sentence(type_, store, trial, said):
    status, _, err = type_("logs", trial)

    assert status == 2
    assert said in err


def test_following_shows_what_is_added_until_the_job_ends(type_, store, monkeypatch):
    lease = leases.lease_job(store, "run", "run-d1", [("d1", "dddd3333")])
    begun = logs.begun("d1", "dddd3333")
    lease.__enter__()
    looks = iter(["", f"{begun}one\n", f"{begun}one\ntwo\n", None, "end"])

    def sleep(seconds):
        text = next(looks)
        if text is None:
            lease.__exit__(None, None, None)
            same = {"attempt": "d1", "trial": "dddd3333", "bundle": "d"}
            store.append(row("dddd3333") | same)
        elif text == "end":
            logs.write(store, "d", "run-d1", f"{begun}one\ntwo\nthree\n")
        elif text:
            logs.write(store, "d", "run-d1", text)

    monkeypatch.setattr(verb.time, "sleep", sleep)

    status, out, _ = type_("logs", "dddd", "--follow")

    assert status == 0
    assert out == "== trial dddd3333 (this trial) ==\none\ntwo\nthree\n"

"""Ray's token is private, and only folders of dead runs of ours are deleted."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from harness.executors.private_files import (
    OWNER,
    claim_session,
    protect_token,
    remove_dead_sessions,
)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token of a user with an empty home lies."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def test_a_new_token_is_for_this_user_only(token, capsys):
    protect_token()

    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert capsys.readouterr().err == ""


def test_a_token_that_others_can_read_is_kept_and_protected(token, capsys):
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)

    protect_token()

    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == "secret"
    assert f"other users could read {token}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "mine")]
)
def test_no_token_is_made_where_ray_needs_none(token, monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    protect_token()

    assert not token.exists()


def test_only_sessions_of_dead_processes_of_ours_are_deleted(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = socket.gethostname()
    notes = {
        "session_dead": {"host": here, "pid": ended.pid},
        "session_elsewhere": {"host": "another", "pid": ended.pid},
        "session_zero": {"host": here, "pid": 0},
        "session_group": {"host": here, "pid": -1},
        "session_damaged": "?",
        "session_without": None,
    }
    for name, note in notes.items():
        (tmp_path / name / "logs").mkdir(parents=True)
        if note is not None:
            (tmp_path / name / OWNER).write_text(json.dumps(note))
    (tmp_path / "session_alive").mkdir()
    claim_session(tmp_path / "session_alive")

    assert remove_dead_sessions(tmp_path) == 1
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"session_alive", *notes} - {"session_dead"}
    owner = json.loads((tmp_path / "session_alive" / OWNER).read_text())
    assert owner == {"host": here, "pid": os.getpid()}

"""Without a network the hub's clients look into their caches at once."""

import os
import socket
import subprocess
import sys
import time

import pytest

from harness.toolkit import hub


@pytest.fixture(autouse=True)
def _undecided(monkeypatch):
    for name in (*hub.OFFLINE, *hub._PROXIES, "HF_ENDPOINT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    hub.settle.cache_clear()
    yield
    hub.settle.cache_clear()


def _nobody(*_):
    raise socket.gaierror("Name or service not known")


def test_a_name_that_does_not_resolve_turns_the_hub_off_once(monkeypatch, caplog):
    constants = type(sys)("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = False
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    monkeypatch.setattr(socket, "getaddrinfo", _nobody)
    hub.settle()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE is True
    hub.settle()
    assert caplog.messages == [
        "no network: only models and data on this machine are used"
    ]


def test_the_endpoint_that_is_set_is_the_one_that_must_resolve(monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, _: asked.append(host))
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443/hub")
    hub.settle()
    assert asked == ["mirror.example"]
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize("name", ["HF_DATASETS_OFFLINE", "HTTPS_PROXY"])
def test_what_the_user_decided_stays(monkeypatch, name):
    monkeypatch.setattr(socket, "getaddrinfo", _nobody)
    monkeypatch.setenv(name, "1")
    hub.settle()
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(hub, "_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: time.sleep(5))
    before = time.monotonic()
    hub.settle()
    assert time.monotonic() - before < 4
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_text_of_the_hub_is_missed_without_retries(tmp_path):
    # A child, because clients read their variables when they are imported.
    code = (
        "import socket, sys\n"
        "def nobody(*a, **k): raise socket.gaierror('Name or service not known')\n"
        "socket.getaddrinfo = nobody\n"
        "from harness.core import BenchError\n"
        "from harness.toolkit import texts\n"
        "try: texts._rows('ptb-test', texts.SOURCES['ptb-test'], sys.argv[1])\n"
        "except BenchError as why: print('missed:', why)\n"
    )
    free = {n: v for n, v in os.environ.items() if n not in hub.OFFLINE}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=free | {"HF_DATASETS_CACHE": str(tmp_path), "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("missed: text 'ptb-test' is not available")
    assert "Retrying" not in done.stderr
    assert "no network" in done.stderr

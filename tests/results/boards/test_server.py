"""The live page over HTTP: answers follow the store, and strangers get none."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from synthetic import row

from results.boards import server
from results.storage.store import Store

Ask = Callable[..., tuple[int, str]]


def _listening(store: Store, token: str = "") -> Iterator[Ask]:
    """A function that asks a running server for a path, with headers."""
    app = server.app(store, token=token)
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]

    def ask(path: str, **headers: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{port}/{path}"
        try:
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=60) as found:
                return found.status, found.read().decode()
        except urllib.error.HTTPError as why:
            with why:
                return why.code, why.read().decode()

    yield ask
    running.should_exit = True
    thread.join()


@pytest.fixture
def ask(empty: Store) -> Iterator[Ask]:
    yield from _listening(empty)


@pytest.fixture
def guarded(empty: Store) -> Iterator[Ask]:
    yield from _listening(empty, "secret")


def test_the_page_holds_no_data_and_asks_for_it(ask):
    status, text = ask("")
    assert status == 200
    assert 'id="data">null</script>' in text


def test_answers_follow_the_store(ask, empty):
    assert json.loads(ask("api/boards")[1]) == []
    before = ask("api/state")[1]
    empty.append(row("t"))
    assert ask("api/state")[1] != before
    (board,) = json.loads(ask("api/boards")[1])
    assert board["rows"][0][board["columns"].index("mean")] == 0.9
    assert json.loads(ask("api/trial/t")[1])["trial"] == "t"


@pytest.mark.parametrize("path", ["api/trial/x", "api/x", "api/..%2f..%2fetc", "x"])
def test_an_unknown_name_is_not_found(ask, path):
    assert ask(path)[0] == 404


def test_another_name_of_this_machine_gets_nothing(ask):
    assert ask("api/boards", Host="evil.example")[0] == 400


def test_a_token_is_asked_for_where_there_is_one(guarded):
    assert guarded("api/boards")[0] == 401
    assert guarded("api/boards?token=wrong")[0] == 401
    assert guarded("?token=secret")[0] == 200
    assert guarded("api/boards", Authorization="Bearer secret")[0] == 200
    assert guarded("api/boards", Cookie="shrinkgrid_token=secret")[0] == 200

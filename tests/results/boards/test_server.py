"""The live page over HTTP: answers follow the store, and strangers get none."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from listening import listening
from synthetic import row

from results.boards import server
from results.storage.store import Store

Ask = Callable[..., tuple[int, str]]


def _listening(store: Store, token: str = "") -> Iterator[Ask]:
    """A function that asks a running server for a path, with headers."""
    with listening(server.app(store, token=token)) as port:
        yield partial(_ask, port)


def _ask(port: int, path: str, **headers: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{port}/{path}"
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as why:
        with why:
            return why.code, why.read().decode()


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

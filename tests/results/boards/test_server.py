"""The live page over HTTP: answers follow the store, and strangers get none."""

import asyncio
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


async def _request(app, path: str, query: str = "", host: str = "localhost"):
    """The status and headers that an application gives to one request."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": query.encode()}
    scope |= {"headers": [(b"host", host.encode())], "root_path": ""}
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}
    await app(scope, receive, send)
    (start,) = (m for m in sent if m["type"] == "http.response.start")
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}


def asked(app, *words: str) -> tuple[int, dict[str, str]]:
    return asyncio.run(_request(app, *words))


def test_a_token_of_the_address_is_kept_in_a_cookie_that_scripts_cannot_read(empty):
    guarded = server.app(empty, token="secret")

    _, headers = asked(guarded, "/", "token=secret")
    cookie = headers["set-cookie"].lower()
    assert cookie.startswith("shrinkgrid_token=secret;")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    status, headers = asked(guarded, "/", "token=wrong")
    assert (status, "set-cookie" in headers) == (401, False)
    # Where everybody may read, a word in the address is not a token.
    status, headers = asked(server.app(empty), "/", "token=secret")
    assert (status, "set-cookie" in headers) == (200, False)
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"


def test_a_server_for_other_machines_takes_every_name(empty):
    assert asked(server.app(empty, hosts=("*",)), "/", "", "gpu7")[0] == 200
    assert asked(server.app(empty), "/", "", "gpu7")[0] == 400


def test_an_answer_is_computed_once_for_each_state_of_the_store(empty, monkeypatch):
    computed = []
    monkeypatch.setattr(
        server.page_data, "answer", lambda _, name: computed.append(name) or [name]
    )
    monkeypatch.setattr(server, "_MOST_KEPT", 2)
    answers = server.Answers(empty)

    assert answers.answer("a") == b'["a"]'
    answers.answer("a")
    answers.answer("b")
    assert computed == ["a", "b"]
    answers.answer("c")  # two are kept: all are dropped
    answers.answer("a")
    assert computed == ["a", "b", "c", "a"]
    empty.append(row("t"))
    answers.answer("a")
    assert computed[-2:] == ["a", "a"]


@pytest.mark.parametrize(
    ("host", "hosts"), [("127.0.0.1", server.LOOPBACK), ("0.0.0.0", ("*",))]
)
def test_only_a_server_of_this_machine_refuses_other_names(
    empty, monkeypatch, host, hosts
):
    import uvicorn

    made, ran = [], []
    monkeypatch.setattr(server, "app", lambda *_, **more: made.append(more))
    monkeypatch.setattr(uvicorn, "run", lambda *_, **more: ran.append(more))
    server.serve(empty, host=host, port=80, token="t")
    assert made == [{"token": "t", "hosts": hosts}]
    assert (ran[0]["host"], ran[0]["port"]) == (host, 80)

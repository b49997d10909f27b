"""The live page: answers the requests of the page from a store, and only reads it."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from results.boards import page_data, report
from results.errors import StoreError
from results.queries.reading import reading
from results.storage import leases
from results.storage.store import Store

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = ("127.0.0.1", "localhost")
_COOKIE = "shrinkgrid_token"
_MOST_KEPT = 500  # answers of one state of the store
_Next: TypeAlias = "Callable[[Request], Awaitable[Response]]"


class Answers:
    """Answers for one state of a store, computed once each and dropped when it changes.

    Args:
        store: Read again for each new state; never written to.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._state = ""
        self._kept: dict[str, bytes | None] = {}

    def state(self) -> str:
        """Return a text that changes when a file of the tables does, or what runs."""
        # Files are never changed, only added and replaced: their list is the state.
        files = self._store.at_this_moment().snapshot
        steps = [str(step) for step in leases.steps(self._store)]
        listed = [files, self._store.folder.names("running"), steps]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def answer(self, request: str) -> bytes | None:
        """Return the answer to one request as JSON; None if nothing has its name."""
        with self._lock:  # one query at a time; the others wait for its answer
            state = self.state()
            if state != self._state or len(self._kept) >= _MOST_KEPT:
                self._state, self._kept = state, {}
            if request not in self._kept:
                self._kept[request] = self._computed(request)
            return self._kept[request]

    def _computed(self, request: str) -> bytes | None:
        found = reading(self._store, lambda seen: page_data.answer(seen, request))
        return None if found is None else json.dumps(found, default=str).encode()


def app(
    store: Store, *, token: str = "", hosts: tuple[str, ...] = LOOPBACK
) -> Starlette:
    """Build the web application.

    Args:
        store: The store; it is only read.
        token: What a reader must give as ``?token=`` once, or in a header
            ``Authorization: Bearer``; empty where everybody who can connect may read.
        hosts: Names of this server that a browser may use. A page of another site
            could otherwise read the answers under a name that resolves to 127.0.0.1.

    Returns:
        An ASGI application.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    answers = Answers(store)
    page = report.html(None)

    def index(_: Request) -> Response:
        return HTMLResponse(page)

    def state(_: Request) -> Response:
        return Response(json.dumps({"state": answers.state()}), media_type=_JSON)

    def answer(request: Request) -> Response:
        try:
            found = answers.answer(request.path_params["request"])
        except StoreError as why:
            return PlainTextResponse("; ".join(why.errors), status_code=500)
        if found is None:
            return PlainTextResponse("nothing has this name", status_code=404)
        return Response(found, media_type=_JSON)

    middleware = [
        Middleware(GZipMiddleware),
        Middleware(BaseHTTPMiddleware, dispatch=_guard(token)),
    ]
    if "*" not in hosts:
        middleware.insert(
            0, Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
        )
    routes = [
        Route("/", index),
        Route("/api/state", state),
        Route("/api/{request:path}", answer),
    ]
    return Starlette(routes=routes, middleware=middleware)


def _guard(token: str) -> Callable[[Request, _Next], Awaitable[Response]]:
    """A middleware that asks for the token, if there is one, and sets headers."""
    from starlette.responses import PlainTextResponse

    async def guarded(request: Request, follow: _Next) -> Response:
        if token and not _knows(request, token):
            text = (
                "this page needs the token that `shrinkgrid serve` printed: ?token=..."
            )
            return PlainTextResponse(text, status_code=401)
        response = await follow(request)
        response.headers.update(_HEADERS)
        if token and "token" in request.query_params:
            response.set_cookie(_COOKIE, token, httponly=True, samesite="strict")
        return response

    return guarded


_JSON = "application/json"
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _knows(request: Request, token: str) -> bool:
    given = (
        request.query_params.get("token", ""),
        request.cookies.get(_COOKIE, ""),
        request.headers.get("authorization", "").removeprefix("Bearer "),
    )
    # Every comparison takes the same time, so that it does not tell how much fits.
    same = [hmac.compare_digest(one.encode(), token.encode()) for one in given]
    return any(same)


def serve(store: Store, *, host: str, port: int, token: str = "") -> None:
    """Answer requests until the process is interrupted.

    Args:
        store: What the page shows; it is only read.
        host: The address to listen at.
        port: The TCP port to listen at.
        token: See ``app``; needed where ``host`` is not of this machine alone.
    """
    import uvicorn

    hosts = LOOPBACK if host in LOOPBACK else ("*",)
    made: Any = app(store, token=token, hosts=hosts)
    uvicorn.run(made, host=host, port=port, log_level="warning", access_log=False)

"""The outermost ASGI layer: request id, access log, metrics, HEAD, and tokens in the query."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from rehydrate.api.routing import request_id

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from rehydrate.api.metrics import Metrics

_log = logging.getLogger("rehydrate.access")

_TOKEN = "rehydrate.access_token"  # noqa: S105 - the name of a place, not a token
_HEAD = "rehydrate.head"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLogMiddleware:
    """ASGI middleware that logs and counts requests.

    It removes ``access_token`` from the query, so that neither the application nor the server's own
    access log sees the token.

    Args:
        app: the wrapped application.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, then log and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _lift_token(scope)
        id_ = request_id(scope)
        status = 500
        began_s = time.perf_counter()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if all(name != b"x-request-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-request-id", id_.encode())]
            await send(message)

        # GET handlers answer HEAD too; the server omits the body
        inner = {**scope, "method": "GET", _HEAD: True} if scope["method"] == "HEAD" else scope
        try:
            await self._app(inner, receive, send_on)
        finally:
            seconds = time.perf_counter() - began_s
            self._record(scope["method"], inner, status, seconds)

    def _record(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = method if method in _METHODS else "other"
        self._metrics.request(route, method, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            fields = {
                "method": method,
                "path": scope["path"],
                "status": status,
                "ms": round(seconds * 1000, 3),
                "request_id": request_id(scope),
            }
            _log.info("request", extra={"fields": fields})


def query_token(request: HTTPConnection) -> str | None:
    """Return the ``access_token`` of the query, for clients that cannot send headers."""
    token: str | None = request.scope.get(_TOKEN)
    return token


def is_head(request: HTTPConnection) -> bool:
    """Return True for HEAD requests."""
    return bool(request.scope.get(_HEAD))


def _lift_token(scope: Scope) -> None:
    """Move ``access_token`` out of the query, in place: servers log the scope that they created."""
    query: bytes = scope.get("query_string", b"")
    if not query:
        return
    kept = []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == "access_token":
            scope.setdefault(_TOKEN, unquote_plus(value.decode("latin-1")))
        else:
            kept.append(pair)
    if _TOKEN in scope:
        scope["query_string"] = b"&".join(kept)

"""How requests are answered: JSON with cache headers, in pieces, problem+json, and direct sending.

Every error becomes problem+json (RFC 9457) with a stable ``code``. That, and ids of any text, are
properties of the route (`Route`), not of the app: so they also hold in an embedding application,
whose own exception handlers stay in effect for its own routes.

A *direct* ``send`` is run from another task, without waking the task that owns the response.
uvicorn's ``send`` completes without suspending unless the client is slow. So one event can be
written to a thousand streams in a loop, where waking a thousand tasks would cost far more. The
coroutine is stepped once by hand; only if it suspends is the rest awaited by the stream's own task.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Coroutine, Generator
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from rehydrate.core.json import dump
from rehydrate.errors import (
    BadParameter,
    BadRequest,
    Refused,
    RehydrateError,
    Unauthorized,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from rehydrate.limits import Claim


JSON = "application/json"
_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
_LIVE = {"Cache-Control": "no-store", "Vary": "Authorization", **_NO_SNIFFING}


SEND_TIMEOUT_S = 60.0
"""The connection of a client that accepts no data for this long is cut."""

PIECE_BYTES = 65_536
"""Bytes per ASGI message: limits the data that the server buffers for one slow client."""


class PacedResponse(Response):
    """A response whose body is sent in pieces, each of which the client has to accept in time.

    Attributes:
        claim: the body's share of the bytes in memory; released when sending has ended or failed.
    """

    claim: Claim | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            if len(self.body) <= PIECE_BYTES:
                await super().__call__(scope, receive, send)
            else:
                await self._send_pieces(scope, send)
        finally:
            if self.claim is not None:
                self.claim.release()

    async def _send_pieces(self, scope: Scope, send: Send) -> None:
        body, last = memoryview(self.body), len(self.body) - PIECE_BYTES
        start = {"status": self.status_code, "headers": self.raw_headers}
        try:
            await send({"type": "http.response.start", **start})
            for at in range(0, len(body), PIECE_BYTES):
                piece = bytes(body[at : at + PIECE_BYTES])
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    message = {"type": "http.response.body", "body": piece, "more_body": at < last}
                    await send(message)
        except TimeoutError:
            _log.info("cutting a connection: its client read nothing for %g s", SEND_TIMEOUT_S)
            await cut(scope)


def live(body: bytes, status: int = 200, claim: Claim | None = None) -> Response:
    """Return a response that must not be cached.

    Args:
        body: JSON.
        status: the status.
        claim: the body's share of the bytes in memory, until it has been sent.
    """
    return _paced(body, status, _LIVE, claim)


def settled(request: Request, body: bytes, claim: Claim | None = None) -> Response:
    """Return a response that clients may cache and revalidate by ETag; 304 if it still matches.

    A repair or a filled gap changes the body, and with it the ETag.
    """
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {**_LIVE, "Cache-Control": "private, no-cache", "ETag": etag}
    if _matches(request.headers.get("if-none-match"), etag):
        if claim is not None:
            claim.release()
        return Response(status_code=304, headers=headers)
    return _paced(body, 200, headers, claim)


def _paced(body: bytes, status: int, headers: dict[str, str], claim: Claim | None) -> Response:
    response = PacedResponse(body, status, headers, JSON)
    if claim is not None:
        claim.hold(len(body))
        response.claim = claim
    return response


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether the header lists *etag*, by weak comparison (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in named or etag in named


_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REALM = 'Bearer realm="rehydrate"'
_TYPE = "urn:rehydrate:problem:"

_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    409: "conflict",
    410: "gone",
    413: "too_large",
    415: "unsupported_media_type",
    422: "bad_parameter",
    429: "too_many",
}
"""Codes for statuses raised as HTTPException, by the framework or by an embedding application."""


class TooSlow(BadRequest):
    """The request did not arrive in time."""

    status = 408
    code = "too_slow"
    title = "Request timeout"


class UnsupportedMediaType(BadRequest):
    """The body is not declared as JSON by its Content-Type."""

    status = 415
    code = "unsupported_media_type"
    title = "Unsupported media type"


class MissingCredentials(Unauthorized):
    """The request carries neither a token nor a key."""


class Problem(NamedTuple):
    """A problem document. ``headers``: additional response headers."""

    status: int
    code: str
    title: str
    detail: str
    parameter: str | None = None
    headers: dict[str, str] | None = None

    def response(self, request_id: str) -> Response:
        """Return the response to the request with *request_id*."""
        body: dict[str, Any] = {
            "type": _TYPE + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        if self.parameter is not None:
            body["parameter"] = self.parameter
        headers = {"Cache-Control": "no-store", "X-Request-Id": request_id, **_NO_SNIFFING}
        return Response(dump(body), self.status, headers | (self.headers or {}), MEDIA_TYPE)


def problem_of(error: Exception, request_id: str) -> Problem:
    """Return the problem of *error*.

    An unexpected error is logged with its traceback and discloses nothing but the request id.
    """
    if isinstance(error, RehydrateError) and error.code != RehydrateError.code:
        return _of_ours(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, ClientDisconnect):
        return Problem(400, "bad_parameter", "Bad request", "the client disconnected")
    _log.error("request %s failed", request_id, exc_info=error)
    return Problem(
        500,
        RehydrateError.code,
        RehydrateError.title,
        f"unexpected error; see the log for request id {request_id}",
    )


def _of_ours(error: RehydrateError) -> Problem:
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Refused):
        headers["WWW-Authenticate"] = _challenge(error)
    parameter = error.parameter if isinstance(error, BadParameter) else None
    return Problem(error.status, error.code, error.title, str(error), parameter, headers)


def _challenge(error: Refused) -> str:
    """Return the WWW-Authenticate header (RFC 6750, 3.1): no error code if credentials are missing."""
    if error.status == HTTPStatus.FORBIDDEN:
        return f'{REALM}, error="insufficient_scope"'
    if isinstance(error, MissingCredentials):
        return REALM
    return f'{REALM}, error="invalid_token"'


def _of_validation(error: RequestValidationError) -> Problem:
    """Return the problem of a parameter that FastAPI rejected; ``loc`` ends with its name."""
    first = error.errors()[0]
    parameter = str(first["loc"][-1])
    return Problem(
        BadParameter.status,
        BadParameter.code,
        BadParameter.title,
        f"{parameter}: {first['msg']}",
        parameter,
    )


def _of_framework(error: HTTPException) -> Problem:
    try:
        title = HTTPStatus(error.status_code).phrase
    except ValueError:
        title = "Refused"
    code = _CODES.get(error.status_code, "internal" if error.status_code >= 500 else "refused")  # noqa: PLR2004 - as HTTP groups them
    detail = error.detail if isinstance(error.detail, str) and error.detail else title
    if code == "not_found" and detail == title:
        detail = "no route matches this path"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", REALM)
    return Problem(error.status_code, code, title, detail, headers=headers)


_REQUEST_ID = "rehydrate.request_id"
_GOOD_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}\Z")

_KEPT = re.compile(r"(%2[Ff]|%25)")
"""Escapes that stay encoded while the path is matched: a ``/`` within an id must not end the
segment. An escaped ``%`` stays too, so that it is not mistaken for the start of such an escape."""


class Route(APIRoute):
    """A route with problem+json errors and percent-encoded ids."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path as it was sent: an id may contain ``/`` (%2F), ``%`` (%25) or any text."""
        path = _path_as_sent(scope)
        if path is None:
            return super().matches(scope)
        match, child = super().matches({**scope, "path": path})
        outer = scope.get("path_params", {})
        for name, value in child.get("path_params", {}).items():
            if name not in outer and isinstance(value, str):
                child["path_params"][name] = _KEPT.sub(lambda found: unquote(found[0]), value)
        return match, child

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request; a wrong method (405) becomes a problem too."""
        try:
            await super().handle(scope, receive, send)
        except HTTPException as error:
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                error.headers = {**(error.headers or {}), "Allow": _allowed(scope)}
            id_ = request_id(scope)
            await problem_of(error, id_).response(id_)(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler, wrapped so that every exception becomes a problem."""
        handler = super().get_route_handler()

        async def wrapped(request: Request) -> Response:
            id_ = request_id(request.scope)
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001 - a problem, logged if it is unexpected
                return problem_of(error, id_).response(id_)
            response.headers["X-Request-Id"] = id_
            return response

        return wrapped


_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def _allowed(scope: Scope) -> str:
    """Return the methods of all routes for the path: each method has its own route."""
    found = {
        method
        for method in _METHODS
        for route in scope["router"].routes
        if route.matches({**scope, "method": method})[0] is Match.FULL
    }
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found and HEAD in scope else set())))


HEAD = "rehydrate.head"
"""Place in the scope of whether a GET is answered to a HEAD request; absent if none are."""


def request_id(scope: Scope) -> str:
    """Return the request's id: a well-formed ``X-Request-Id`` of the client, or a generated one."""
    id_ = scope.get(_REQUEST_ID)
    if id_ is None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        id_ = given.decode("latin-1")
        if not _GOOD_REQUEST_ID.match(id_):
            id_ = secrets.token_hex(8)
        scope[_REQUEST_ID] = id_
    return str(id_)


def _path_as_sent(scope: Scope) -> str | None:
    """Return the path with `_KEPT` escapes, or None if the decoded path of the scope applies.

    Bytes that are not UTF-8 become lone surrogates, which no id may contain. If a middleware has
    rewritten the path, the rewritten one applies.
    """
    raw: bytes | None = scope.get("raw_path")
    if scope["type"] != "http" or not raw or b"%" not in raw:
        return None
    text = raw.decode("latin-1")
    if unquote(text) != scope["path"]:
        return None
    return "".join(
        piece if _KEPT.match(piece) else unquote(piece, errors="surrogateescape")
        for piece in _KEPT.split(text)
    )


_DIRECT = "rehydrate.direct"
_SERVERS = "uvicorn.protocols."


class Unfinished:
    """The rest of a coroutine that suspended when it was stepped by hand; await or close it."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                result = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation goes to the coroutine
                resume = partial(self._coroutine.throw, error)
            else:
                resume = partial(self._coroutine.send, result)
            try:
                waits_for = resume()
            except StopIteration:
                return

    def close(self) -> None:
        """Close the coroutine without finishing it."""
        self._coroutine.close()


def step(coroutine: Coroutine[Any, Any, None]) -> Unfinished | None:
    """Run *coroutine* until it suspends; return the rest, or None if it has finished.

    Raises:
        Exception: the exception of the coroutine.
    """
    try:
        return Unfinished(coroutine, coroutine.send(None))
    except StopIteration:
        return None


def offer_direct(scope: Scope, send: Send) -> None:
    """Store the server's own *send* in *scope*, if any task may call it (true of uvicorn)."""
    owner = type(getattr(send, "__self__", None))
    if owner.__module__.startswith(_SERVERS):
        scope[_DIRECT] = send


def direct(scope: Scope) -> Send | None:
    """Return the server's own ``send``, which may be stepped by hand; None for other servers."""
    found: Send | None = scope.get(_DIRECT)
    return found


async def cut(scope: Scope) -> None:
    """Abort the connection of a request, if the server is uvicorn.

    Without this, uvicorn would end the connection only after the client had read all buffered data.
    """
    transport = getattr(getattr(direct(scope), "__self__", None), "transport", None)
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
        await asyncio.sleep(0)  # let uvicorn process the disconnect


def server_connections(receive: Receive) -> set[Any] | None:
    """Return the open connections of the server of a request; None for servers other than uvicorn.

    When uvicorn shuts down, for whatever reason, it calls ``shutdown()`` of each.
    """
    cycle = getattr(receive, "__self__", None)
    if not type(cycle).__module__.startswith(_SERVERS):
        return None
    protocol = getattr(getattr(cycle, "on_response", None), "__self__", None)
    found = getattr(getattr(protocol, "server_state", None), "connections", None)
    return found if isinstance(found, set) else None


class DirectFastAPI(FastAPI):
    """FastAPI that offers the server's own ``send`` to its streams."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        offer_direct(scope, send)
        await super().__call__(scope, receive, send)

"""A route class that accepts any text in ids and converts every error to problem+json.

Both are properties of the route, not of the app: so they also hold in an embedding application,
whose own exception handlers stay in effect for its own routes.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Match

from rehydrate.api.problems import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

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

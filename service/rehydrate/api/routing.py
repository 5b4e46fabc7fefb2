"""Routes whose ids may hold anything, and whose every error is problem+json.

Both are properties of the route, not of the app, so that they hold in an app of somebody else's,
whose own handlers stay as they are.
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
"""Escapes that stay while the path is matched: ``/`` of an id is no segment's end. ``%`` stays so
that it can be told from them."""


class Route(APIRoute):
    """A route that tells errors as problem+json and takes ids as clients percent-encode them."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path as it was sent: an id may hold ``/`` (%2F), ``%`` (%25), or any text."""
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
        """As the framework does, but a wrong method (405) is told as a problem, too."""
        try:
            await super().handle(scope, receive, send)
        except HTTPException as error:
            id_ = request_id(scope)
            await problem_of(error, id_).response(id_)(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, which lets no exception out."""
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            id_ = request_id(request.scope)
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001 - told as a problem, and logged if it is ours
                return problem_of(error, id_).response(id_)
            response.headers["X-Request-Id"] = id_
            return response

        return guarded


def request_id(scope: Scope) -> str:
    """The id of a request: the caller's ``X-Request-Id`` if it is a plain one, else made up."""
    known = scope.get(_REQUEST_ID)
    if known is None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        known = given.decode("latin-1")
        if not _GOOD_REQUEST_ID.match(known):
            known = secrets.token_hex(8)
        scope[_REQUEST_ID] = known
    return str(known)


def _path_as_sent(scope: Scope) -> str | None:
    """The path with `_KEPT` still escaped; None if that is no other than the decoded one.

    Bytes that are no UTF-8 become lone surrogates, which no id may hold. Where somebody has
    rewritten the path since, that counts.
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

"""Answers: bytes that are JSON already, and what others may keep of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

JSON = "application/json"
_LIVE = {"Cache-Control": "no-store", "Vary": "Authorization"}


def live(body: bytes, status: int = 200) -> Response:
    """*body*, which is true only now."""
    return Response(body, status, _LIVE, JSON)


def settled(request: Request, body: bytes) -> Response:
    """*body*, which will hardly change: it may be kept by its reader, and asked about by ETag.

    A repair, or a filled gap, changes the text and so the tag.
    """
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"Cache-Control": "private, no-cache", "Vary": "Authorization", "ETag": etag}
    if _has(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, JSON)


def _has(if_none_match: str | None, etag: str) -> bool:
    """Whether the header names *etag*, by the weak comparison that RFC 9110 has for it."""
    if if_none_match is None:
        return False
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in named or etag in named

"""JSON responses and their cache headers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.requests import Request

JSON = "application/json"
_LIVE = {"Cache-Control": "no-store", "Vary": "Authorization"}


def live(body: bytes, status: int = 200) -> Response:
    """Return a response that must not be cached."""
    return Response(body, status, _LIVE, JSON)


def settled(request: Request, body: bytes) -> Response:
    """Return a response that clients may cache and revalidate by ETag; 304 if it still matches.

    A repair or a filled gap changes the body, and with it the ETag.
    """
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"Cache-Control": "private, no-cache", "Vary": "Authorization", "ETag": etag}
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, JSON)


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Return whether the header lists *etag*, by weak comparison (RFC 9110, 13.1.2)."""
    if if_none_match is None:
        return False
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in named or etag in named

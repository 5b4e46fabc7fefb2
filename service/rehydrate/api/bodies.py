"""Read request bodies with limits of size, time and nesting.

FastAPI's own body parameters are not used: it reads the whole body into memory before any
dependency runs, that is before authorization and without a limit of size or time.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from rehydrate.api.problems import TooSlow, UnsupportedMediaType
from rehydrate.core.json import load
from rehydrate.errors import BadParameter, TooLarge

if TYPE_CHECKING:
    from starlette.requests import Request

ARRIVAL_S = 30.0
"""Seconds that a body may take to arrive."""

DEPTH = 64
"""Maximum nesting of JSON: every JSON library must be able to serialize the stored value."""


async def read_json(request: Request, limit_bytes: int) -> Any:
    """Read the body of *request* and parse it as JSON.

    Raises:
        UnsupportedMediaType: the Content-Type is not application/json. (A page of another origin
            cannot send that type without a CORS preflight, so a cookie alone cannot store data.)
        TooLarge: the body has more than *limit_bytes*; raised before it is in memory.
        TooSlow: it did not arrive within `ARRIVAL_S`.
        BadParameter: it is not JSON, or is nested deeper than `DEPTH`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("the body must be JSON, with Content-Type: application/json")
    body = await read_bytes(request, limit_bytes)
    try:
        value = load(body)
        if rb"\u" in body:
            json.dumps(value, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
    except ValueError as error:
        raise BadParameter("body", f"the body is not JSON: {_why(error)}") from error
    if _deeper_than(value, DEPTH):
        raise BadParameter("body", f"the body is nested deeper than {DEPTH} levels")
    return value


async def read_bytes(request: Request, limit_bytes: int, within_s: float | None = None) -> bytes:
    """Read the body of *request* as it is.

    Args:
        request: the request.
        limit_bytes: maximum size of the body.
        within_s: seconds that the body may take to arrive; None: `ARRIVAL_S`.

    Raises:
        TooLarge: the body has more than *limit_bytes*; raised before it is in memory.
        TooSlow: it did not arrive in time.
    """
    within_s = ARRIVAL_S if within_s is None else within_s
    declared = request.headers.get("content-length", "")
    too_large = TooLarge(f"the body has more than {limit_bytes} bytes")
    if declared.isascii() and declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError as error:
        raise TooSlow(f"the body did not arrive within {within_s:g} s") from error
    return b"".join(chunks)


def _why(error: ValueError) -> str:
    """Return the reason without the body, which `UnicodeError` quotes."""
    return (
        error.reason if isinstance(error, UnicodeDecodeError | UnicodeEncodeError) else str(error)
    )


def _deeper_than(value: Any, depth: int) -> bool:
    layer = [value]
    for _ in range(depth):
        layer = [
            each
            for outer in layer
            if isinstance(outer, list | dict)
            for each in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True

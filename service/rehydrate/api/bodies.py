"""JSON bodies, read with limits of size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from rehydrate.api.problems import TooSlow, UnsupportedMediaType
from rehydrate.errors import BadParameter, TooLarge

if TYPE_CHECKING:
    from starlette.requests import Request

ARRIVAL_S = 30.0
"""How long a body may take to arrive."""

DEPTH = 64
"""How deep JSON may be nested: what is stored must be printed again, by any library."""


async def read_json(request: Request, limit_bytes: int) -> Any:
    """The body of *request*, parsed.

    Raises:
        UnsupportedMediaType: it does not say that it is JSON. (A page of another origin cannot
            send one that does without asking first, so that a cookie alone stores nothing.)
        TooLarge: it has more than *limit_bytes*; found out before it is held.
        TooSlow: it did not arrive within `ARRIVAL_S`.
        BadParameter: it is no JSON, or nested deeper than `DEPTH`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType("the body has to be JSON, with Content-Type: application/json")
    body = await read_bytes(request, limit_bytes)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadParameter("body", f"the body is no JSON: {error.msg} at {error.pos}") from error
    if _deeper_than(value, DEPTH):
        raise BadParameter("body", f"the body is nested deeper than {DEPTH}")
    return value


async def read_bytes(request: Request, limit_bytes: int, within_s: float | None = None) -> bytes:
    """The body of *request*, as it came.

    Raises:
        TooLarge: it has more than *limit_bytes*; found out before it is held.
        TooSlow: it did not arrive within *within_s*, or else `ARRIVAL_S`.
    """
    within_s = ARRIVAL_S if within_s is None else within_s
    said = request.headers.get("content-length", "")
    too_large = TooLarge(f"the body has more than {limit_bytes} bytes")
    if said.isascii() and said.isdigit() and int(said) > limit_bytes:
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

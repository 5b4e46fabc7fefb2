"""What the REST calls share: formats, bodies, answers, errors and Link headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from aiohttp import web

from .errors import FrameError, RefusedError
from .frames import Format, pack, unpack

if TYPE_CHECKING:
    from .auth import Identity
    from .hub import Hub

_MEDIA_TYPES: Final = {Format.JSON: "application/json", Format.MSGPACK: "application/x-msgpack"}
_EXPOSED: Final = "Link, X-Ably-ErrorCode, X-Ably-ErrorMessage, Retry-After"
_ALLOWED: Final = (
    "Authorization, Content-Type, Accept, Ably-Agent, X-Ably-Version, X-Ably-Lib, X-Ably-ClientId"
)
_LONGEST_STALL_S: Final = 600
DURABLE: web.AppKey[Callable[[], None]] = web.AppKey("durable")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HUB: web.AppKey[Hub] = web.AppKey("hub")


def answer_format(request: web.Request) -> Format:
    """Return the format that the client wants its answer in."""
    wanted = str(request.query.get("format") or request.headers.get("Accept", ""))
    return Format.MSGPACK if "msgpack" in wanted else Format.JSON


def body_format(request: web.Request) -> Format:
    """Return the format that the request's body is in."""
    return Format.MSGPACK if "msgpack" in request.headers.get("Content-Type", "") else Format.JSON


async def body_of(request: web.Request) -> Any:
    """Return the decoded body.

    Raises:
        FrameError: it is not in the format of its Content-Type.
        RefusedError: 40009, it is too large.
    """
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise RefusedError(40009, "the body of the request is too large", 413) from error
    return unpack(data, body_format(request)) if data else None


async def map_of(request: web.Request) -> dict[str, Any]:
    """Return a body that has to be a map.

    Raises:
        FrameError: it is something else.
    """
    value = await body_of(request)
    if not isinstance(value, dict):
        raise FrameError("the body has to be a map")
    return value


def answer(request: web.Request, value: Any, status: int = 200) -> web.Response:
    """Return *value* in the format that the client wants."""
    form = answer_format(request)
    return raw_answer(form, pack(value, form), status)


def raw_answer(
    form: Format, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return bytes that are encoded already."""
    return web.Response(body=body, status=status, content_type=_MEDIA_TYPES[form], headers=headers)


def refusal(request: web.Request, error: RefusedError) -> web.Response:
    """Return an error as Ably's REST API writes it, with its headers."""
    response = answer(request, {"error": error.as_wire()}, error.status_code)
    response.headers["X-Ably-ErrorCode"] = str(error.code)
    response.headers["X-Ably-ErrorMessage"] = quote(error.message, safe=" :;,.'()[]{}")
    return response


def identity_of(request: web.Request) -> Identity:
    """Return the caller.

    Raises:
        RefusedError: 40101 and the other codes of authentication.
    """
    return request.app[HUB].authenticator.of_request(request.headers, request.query)


def batch_result(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a BatchResult of *entries*, of which those that failed have an `error` (BAR2)."""
    failures = sum("error" in entry for entry in entries)
    counts = {"successCount": len(entries) - failures, "failureCount": failures}
    return {**counts, "results": entries}


def link_headers(
    path: str, first: Mapping[str, str], next_page: Mapping[str, str] | None
) -> list[tuple[str, str]]:
    """Return a Link header for each relation: first, current, and next where there is more."""
    links = [(first, "first"), (first, "current")]
    if next_page is not None:
        links.append((next_page, "next"))
    # ably-js wants `./word?query`, and splits at commas: urlencode writes these as %2C
    return [("Link", f'<./{path}?{urlencode(query)}>; rel="{rel}"') for query, rel in links]


async def _stall(request: web.Request) -> None:
    if request.path.startswith("/localably"):
        return
    fault = request.app[HUB].faults.now("stall_requests")
    if fault is not None:
        await asyncio.sleep(min(fault.get("seconds", 30), _LONGEST_STALL_S))


@web.middleware
async def errors_and_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer refusals in Ably's form, and let pages of any origin ask, as Ably does."""
    response: web.StreamResponse
    if request.method == "OPTIONS":
        response = web.Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
        response.headers["Access-Control-Allow-Headers"] = _ALLOWED
        response.headers["Access-Control-Max-Age"] = "600"
    else:
        try:
            await _stall(request)
            response = await handler(request)
            if not response.prepared:
                # an acknowledged publish must survive kill -9
                request.app[DURABLE]()
        except RefusedError as error:
            response = refusal(request, error)
        except web.HTTPNotFound:
            response = refusal(request, RefusedError(40400, "there is nothing at this address"))
        except web.HTTPMethodNotAllowed:
            response = refusal(request, RefusedError(40400, "there is no such method here"))
    if not response.prepared and not request.path.startswith("/localably"):
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    return response

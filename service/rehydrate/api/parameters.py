"""What routes read from a request: path and query parameters, and bodies.

Most routes declare their parameters in FastAPI's way, with the annotated types of this module
(`ConversationId`, `Paging` and so on). The two hot routes, GET conversation and GET stream, read
them by hand from the request (`conversations`). Measured with FastAPI 0.165, pydantic 2.14 and Python 3.11 on an endpoint that only reads the parameters of GET
conversation: 0.25 ms of CPU per request with declared parameters and 0.05 ms by hand. That is most
of the CPU time that a hydrate call needs outside the database.

Both ways use the same checks, which raise `BadParameter` with a message of ours, and the same
descriptions for the OpenAPI document.

Bodies are read with limits of size, time and nesting. FastAPI's own body parameters are not used:
it reads the whole body into memory before any dependency runs, that is before authorization and
without a limit of size or time.
"""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Path, Query
from pydantic import BeforeValidator, WithJsonSchema
from starlette.requests import Request

from rehydrate.api.answers import TooSlow, UnsupportedMediaType
from rehydrate.core.json import load
from rehydrate.core.positions import (
    CONVERSATION_ID_LENGTH,
    SERIAL_LENGTH,
    Cursor,
    check_conversation_id,
    check_message_id,
    decode_cursor,
    has_control,
)
from rehydrate.errors import BadParameter, TooLarge
from rehydrate.hydrate.hydrate import MAX_LIMIT

DEFAULT_LIMIT = 50
MESSAGE_ID_LENGTH = SERIAL_LENGTH
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""JSON schema pattern of text without control characters."""

_LIMITS = {str(limit): limit for limit in range(1, MAX_LIMIT + 1)}
_MAX_CURSOR_LENGTH = 4_096
"""In characters: a position and an id of 256 characters each, escaped, in base64."""

_ID: dict[str, Any] = {
    "in": "path",
    "required": True,
    "description": "Percent-encoded; no control characters.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": MESSAGE_ID_LENGTH,
        "pattern": PRINTABLE,
    },
}

_DESCRIBED: dict[str, dict[str, Any]] = {
    "conversation_id": {
        "in": "path",
        "required": True,
        "description": "Percent-encoded. It contains no control characters and no `*`, and does not "
        "start with `[` or `:`; any other character is allowed, including `/` (as %2F).",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": CONVERSATION_ID_LENGTH,
            "pattern": r"^[^\[:*\x00-\x1f\x7f-\x9f][^*\x00-\x1f\x7f-\x9f]*$",
        },
    },
    "message_id": _ID,
    "response_id": _ID,
    "replay_id": _ID,
    "limit": {
        "in": "query",
        "description": "Maximum number of results, newest first.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LIMIT,
            "default": DEFAULT_LIMIT,
        },
    },
    "until": {
        "in": "query",
        "description": "The attach serial of the client: the answer reaches at least this position. "
        "Without it, the answer reaches at least 2 s before the request.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": SERIAL_LENGTH,
            "pattern": PRINTABLE,
        },
    },
    "query": {
        "in": "query",
        "description": "A prefix of the conversation id, or the name of the channel.",
        "schema": {"type": "string", "maxLength": SERIAL_LENGTH, "pattern": PRINTABLE},
    },
    "streaming": {
        "in": "query",
        "description": "Only conversations that have an open response.",
        "schema": {"type": "boolean", "default": False},
    },
    "format": {
        "in": "query",
        "description": "`ui-messages`: messages in the form of the Vercel AI SDK.",
        "schema": {"type": "string", "enum": ["ui-messages"]},
    },
    "text": {
        "in": "query",
        "description": "`once`: a message whose `parts` contain its text has no member `text`. An answer is "
        "then about half as long.",
        "schema": {"type": "string", "enum": ["always", "once"], "default": "always"},
    },
    "before": {
        "in": "query",
        "description": "The `older` cursor of an earlier answer: returns the page before it.",
        "schema": {
            "type": "string",
            "maxLength": _MAX_CURSOR_LENGTH,
            "pattern": "^[A-Za-z0-9_-]+$",
        },
    },
}


def described(*names: str) -> dict[str, Any]:
    """Return the parameters called *names* as a fragment of the OpenAPI document."""
    return {"parameters": [{"name": name, **_DESCRIBED[name]} for name in names]}


def _check_id(name: str, value: str) -> str:
    try:
        value.encode()
        good = len(value) <= MESSAGE_ID_LENGTH and not has_control(value)
    except UnicodeEncodeError:
        good = False
    if not good:
        raise BadParameter(
            name, f"{name} must have 1 to {MESSAGE_ID_LENGTH} characters, no control characters"
        )
    return value


def check_limit(value: str) -> int:
    """Return the limit that *value* is.

    Raises:
        BadParameter: it is not an integer from 1 to 200.
    """
    number = _LIMITS.get(value)
    if number is None:
        raise BadParameter("limit", f"limit must be an integer from 1 to {MAX_LIMIT}")
    return number


def check_cursor(value: str) -> Cursor:
    """Return the cursor that *value* is.

    Raises:
        BadParameter: it is not one.
    """
    try:
        if len(value) <= _MAX_CURSOR_LENGTH:
            return decode_cursor(value)
    except RecursionError:
        pass  # deeply nested brackets
    raise BadParameter("before", "before must be a cursor from an earlier answer")


def _check_query(value: str) -> str | None:
    return check_message_id(value, "query") if value else None


def _check_streaming(value: str) -> bool:
    if value not in ("true", "false"):
        raise BadParameter("streaming", "streaming must be true or false")
    return value == "true"


def _id_check(name: str) -> BeforeValidator:
    return BeforeValidator(lambda value: _check_id(name, value))


def _description(name: str) -> str:
    text: str = _DESCRIBED[name]["description"]
    return text


def _schema(name: str) -> WithJsonSchema:
    return WithJsonSchema(_DESCRIBED[name]["schema"])


ConversationId = Annotated[
    str,
    Path(description=_description("conversation_id")),
    BeforeValidator(check_conversation_id),
    _schema("conversation_id"),
]
MessageId = Annotated[
    str,
    Path(description=_description("message_id")),
    _id_check("message_id"),
    _schema("message_id"),
]
ResponseId = Annotated[
    str,
    Path(description=_description("response_id")),
    _id_check("response_id"),
    _schema("response_id"),
]
ReplayId = Annotated[
    str,
    Path(description=_description("replay_id")),
    _id_check("replay_id"),
    _schema("replay_id"),
]
SearchText = Annotated[
    str | None,
    Query(description=_description("query")),
    BeforeValidator(_check_query),
    _schema("query"),
]
StreamingOnly = Annotated[
    bool,
    Query(description=_description("streaming")),
    BeforeValidator(_check_streaming),
    _schema("streaming"),
]


class PageQuery(NamedTuple):
    """A page of a list: at most *limit* entries before the cursor; None: the newest ones."""

    limit: int
    before: Cursor | None


def _page(
    limit: Annotated[
        int,
        Query(description=_description("limit")),
        BeforeValidator(check_limit),
        _schema("limit"),
    ] = DEFAULT_LIMIT,
    before: Annotated[
        str | None, Query(description=_description("before")), _schema("before")
    ] = None,
) -> PageQuery:
    return PageQuery(limit, None if before is None else check_cursor(before))


Paging = Annotated[PageQuery, Depends(_page)]


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

"""The parameters of path and query: read, checked, and described.

They are read by hand: the framework's own reading of three parameters takes longer than all else
that a hydrate does outside the database, and names them less well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.positions import (
    CONVERSATION_ID_LENGTH,
    SERIAL_LENGTH,
    Cursor,
    check_conversation_id,
    check_message_id,
    check_until,
    decode_cursor,
    has_control,
)
from rehydrate.errors import BadParameter
from rehydrate.hydrate.hydrate import MAX_LIMIT

if TYPE_CHECKING:
    from starlette.requests import Request

DEFAULT_LIMIT = 50
MESSAGE_ID_LENGTH = SERIAL_LENGTH
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
"""For documents: text without control characters."""

_LIMITS = {str(limit): limit for limit in range(1, MAX_LIMIT + 1)}
_LONGEST_CURSOR = 4_096
"""In characters: a position and an id of 256 each, escaped, in base64."""


def conversation_id(request: Request) -> str:
    """The conversation in the path.

    Raises:
        BadParameter: it can name none.
    """
    return check_conversation_id(request.path_params["conversation_id"])


def message_id(request: Request) -> str:
    """The message in the path.

    Raises:
        BadParameter: no message can have that id.
    """
    return _id(request, "message_id", "a message id")


def response_id(request: Request) -> str:
    """The response in the path.

    Raises:
        BadParameter: no response can have that id.
    """
    return _id(request, "response_id", "a response id")


def replay_id(request: Request) -> str:
    """The replay in the path.

    Raises:
        BadParameter: no replay can have that id.
    """
    return _id(request, "replay_id", "a replay id")


def _id(request: Request, name: str, what: str) -> str:
    given: str = request.path_params[name]
    try:
        given.encode()
        good = len(given) <= MESSAGE_ID_LENGTH and not has_control(given)
    except UnicodeEncodeError:
        good = False
    if not good:
        raise BadParameter(name, f"{what} has 1 to 256 characters, no control ones")
    return given


def limit(request: Request) -> int:
    """How many messages, or conversations, are asked for.

    Raises:
        BadParameter: it is no number from 1 to 200.
    """
    given = request.query_params.get("limit")
    if given is None:
        return DEFAULT_LIMIT
    number = _LIMITS.get(given)
    if number is None:
        raise BadParameter("limit", f"limit is a number from 1 to {MAX_LIMIT}")
    return number


def until(request: Request) -> str | None:
    """The attach point that is asked for.

    Raises:
        BadParameter: it can be none.
    """
    return check_until(request.query_params.get("until"))


def before(request: Request) -> Cursor | None:
    """The place from which to page backwards.

    Raises:
        BadParameter: it is no cursor.
    """
    given = request.query_params.get("before")
    if given is None:
        return None
    try:
        if len(given) <= _LONGEST_CURSOR:
            return decode_cursor(given)
    except RecursionError:
        pass  # brackets in brackets: no cursor either
    raise BadParameter("before", "before is a cursor of an earlier answer")


def format(request: Request, known: str) -> bool:  # noqa: A001 - the parameter's name
    """Whether the format *known* is asked for, and not our own.

    Raises:
        BadParameter: another one is.
    """
    given = request.query_params.get("format")
    if given not in (None, known):
        raise BadParameter("format", f"format is {known}, or left out")
    return given is not None


def response(request: Request) -> str | None:
    """The response that is asked for.

    Raises:
        BadParameter: no response can have that id.
    """
    given = request.query_params.get("response")
    return None if given is None else check_message_id(given, "response")


def query(request: Request) -> str | None:
    """What is searched for; None: nothing.

    Raises:
        BadParameter: nothing can begin with it.
    """
    return (
        check_message_id(given, "query") if (given := request.query_params.get("query")) else None
    )


def streaming(request: Request) -> bool:
    """Whether only conversations are asked for in which a response is open.

    Raises:
        BadParameter: it is neither true nor false.
    """
    given = request.query_params.get("streaming", "false")
    if given not in ("true", "false"):
        raise BadParameter("streaming", "streaming is true or false")
    return given == "true"


def described(*names: str) -> dict[str, Any]:
    """Parameters for the OpenAPI document, by name."""
    return {"parameters": [{"name": name, **_DESCRIBED[name]} for name in names]}


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
        "description": "Percent-encoded. It holds no control characters and no `*`, and does not "
        "begin with `[` or `:`; anything else goes, `/` (as %2F) too.",
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
        "description": "At most how many, the newest ones.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LIMIT,
            "default": DEFAULT_LIMIT,
        },
    },
    "until": {
        "in": "query",
        "description": "The attach serial of the client: the answer reaches at least there. "
        "Without it, at least 2 s before the request.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": SERIAL_LENGTH,
            "pattern": PRINTABLE,
        },
    },
    "query": {
        "in": "query",
        "description": "What the id of a conversation begins with, or the name of its channel.",
        "schema": {"type": "string", "maxLength": SERIAL_LENGTH, "pattern": PRINTABLE},
    },
    "streaming": {
        "in": "query",
        "description": "Only conversations in which a response is open.",
        "schema": {"type": "boolean", "default": False},
    },
    "format": {
        "in": "query",
        "description": "`ui-messages`: the messages as the Vercel AI SDK has them.",
        "schema": {"type": "string", "enum": ["ui-messages"]},
    },
    "before": {
        "in": "query",
        "description": "The `older` of an earlier answer: for the page before it.",
        "schema": {
            "type": "string",
            "maxLength": _LONGEST_CURSOR,
            "pattern": "^[A-Za-z0-9_-]+$",
        },
    },
}

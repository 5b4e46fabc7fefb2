"""Message-per-response: a response is one channel message, to which its publisher appends.

The wire format is specified in docs/protocol.md section 4.

The message is created with the name ``response``. The header ``responseId`` names the response;
without it the message's own serial does. It grows by appends and is replaced by updates. It ends
with an append or update whose metadata have ``phase: done`` (or the header, if the publisher uses
that), with ``response-end``, or when a backend stores it. Other publishers drop headers, and Ably
need not echo the name of an append: the append chain tells which message a delta belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.event import (
    APPEND,
    CREATE,
    DELETE,
    STATUSES,
    TERMINAL,
    ChannelMessage,
    Event,
    Status,
    Version,
)
from rehydrate.core.json import is_json
from rehydrate.core.positions import is_name
from rehydrate.core.text.readable import ReadableText, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "response"
END = "response-end"
_ACTIONS = frozenset({CREATE, 1, DELETE, APPEND})


def decode(message: ChannelMessage) -> Event | None:
    """Return the event that *message* means; None: it is not of this codec, or names no place."""
    if message.name == END:
        return _end(message)
    if message.name != NAME and (message.name is not None or message.action != APPEND):
        return None
    if message.action not in _ACTIONS or message.serial is None:
        return None
    headers = headers_of(message)
    response_id = headers.get("responseId")
    named = response_id if is_name(response_id) else None
    if named is None and message.name == NAME:
        named = message.serial
    text, unreadable = text_of(message)
    return Event(
        "token",
        named,
        serial=message.serial,
        id=message.id,
        client_id=message.client_id,
        timestamp_ms=message.timestamp_ms,
        text=text,
        status=_status(message, headers),
        version=version_of(message),
        unreadable=unreadable,
    )


def headers_of(message: ChannelMessage) -> Mapping[str, Any]:
    """Return the headers of *message*; empty if its publisher sent something else."""
    extras = message.extras
    headers = extras.get("headers") if isinstance(extras, dict) else None
    return headers if isinstance(headers, dict) else {}


def version_of(message: ChannelMessage, **more: Any) -> Version:
    """Return which version *message* is of the channel message that has its serial."""
    serial = message.version_serial or message.serial or ""
    return Version(serial, is_delta=message.action == APPEND, **more)


def text_of(message: ChannelMessage) -> ReadableText:
    """Return the text of *message*, or of its append; empty if it was deleted."""
    return read_text(None if message.action == DELETE else message.data)


def _status(message: ChannelMessage, headers: Mapping[str, Any]) -> Status | None:
    metadata = message.version_metadata
    for source in (metadata if isinstance(metadata, dict) else {}, headers):
        if source.get("phase") == "done":
            return _terminal(source.get("status"))
    return None


def _terminal(status: Any) -> Status:
    if isinstance(status, str) and status in STATUSES:
        return status if status in TERMINAL else "failed"  # type: ignore[return-value] # as tested
    return "completed"


def _end(message: ChannelMessage) -> Event | None:
    headers, data = headers_of(message), message.data
    fields = data if isinstance(data, dict) else {}
    named = headers.get("responseId"), fields.get("responseId")
    response_id = next(filter(is_name, named), None)
    if message.action != CREATE or response_id is None:
        return None
    error, usage = headers.get("error"), fields.get("usage")
    if error is None:
        error = fields.get("error")
    return Event(
        "stop",
        response_id,
        serial=message.serial,
        id=message.id,
        client_id=message.client_id,
        timestamp_ms=message.timestamp_ms,
        status=_terminal(headers.get("status")),
        error=error if is_json(error) else None,
        value=usage if is_json(usage) else None,
    )

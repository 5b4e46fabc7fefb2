"""Conversion of history rows and of the SDK's live messages into `ChannelMessage`.

History rows are decoded here rather than by the SDK, which creates eight objects per row: reading
thousands of rows dominates a cold hydrate.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from rehydrate.core.event import ChannelMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ably.types.message import Message


def from_rows(rows: Iterable[dict[str, Any]]) -> list[ChannelMessage]:
    """Return the messages of a page of history, in the order of *rows*."""
    return [_from_row(row) for row in rows]


def _from_row(row: dict[str, Any]) -> ChannelMessage:
    get = row.get
    data, encoding, serial = get("data"), get("encoding"), get("serial")
    if encoding:
        data = decoded(data, encoding)
    version = get("version")
    # a third faster than the constructor, which processes keyword arguments
    return tuple.__new__(
        ChannelMessage,
        (
            get("name"),
            data,
            get("id"),
            serial,
            get("timestamp") or 0,
            get("clientId"),
            get("extras"),
            get("action") or 0,
            (version.get("serial") or serial) if version else serial,  # TM2s1
            version.get("metadata") if version else None,
        ),
    )


def from_live(message: Message) -> ChannelMessage:
    """Convert a message that the SDK has decoded."""
    data, version = message.data, message.version
    return ChannelMessage(
        message.name,
        bytes(data) if isinstance(data, bytearray) else data,
        message.id,
        message.serial,
        message.timestamp or 0,
        message.client_id,
        message.extras,
        int(message.action or 0),
        (version.serial if version else None) or message.serial,
        version.metadata if version else None,
    )


def decoded(data: Any, encoding: str) -> Any:
    """Undo *encoding*, last step first (RSL6).

    An unknown step stops decoding and leaves the data as it is at that point. A failing step
    returns its input as bytes, so that it is never mistaken for text.
    """
    steps = encoding.split("/")
    while steps and data is not None:
        step = steps.pop()
        try:
            if step == "json":
                data = json.loads(data) if isinstance(data, (str, bytes)) else data
            elif step == "utf-8":
                data = data.decode() if isinstance(data, bytes) else data
            elif step == "base64":
                data = base64.b64decode(data, validate=True)
            elif step:
                return data
        except (ValueError, TypeError, RecursionError, binascii.Error):
            return data.encode(errors="surrogatepass") if isinstance(data, str) else data
    return data

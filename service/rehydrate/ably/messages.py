"""Channel messages from what Ably sends: rows of history, and the SDK's live messages.

Rows are decoded here and not by the SDK, which makes eight objects of each: reading thousands of
them is most of a cold hydrate.
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
    """The messages of a page of history, in the order of *rows*."""
    return [_from_row(row) for row in rows]


def _from_row(row: dict[str, Any]) -> ChannelMessage:
    get = row.get
    data, encoding, serial = get("data"), get("encoding"), get("serial")
    if encoding:
        data = decoded(data, encoding)
    version = get("version")
    # what the constructor does, without its detour through keyword arguments: a third faster
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
    """A message that the SDK has decoded."""
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

    A step that is unknown ends it: the data stays as it is then. A step that fails gives the bytes
    that it failed on, so that nobody takes them for text.
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

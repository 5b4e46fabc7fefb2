"""ProtocolMessages as bytes: JSON and msgpack, and the WebSocket frames around them.

No input or output happens here. A message that goes to many connections is encoded once per
format, with its WebSocket header, and the same bytes are handed to every connection.
"""

from __future__ import annotations

import base64
import binascii
import struct
from enum import IntEnum, IntFlag
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import orjson

from .errors import FrameError


class Format(IntEnum):
    """The two encodings of the wire; the value is the WebSocket opcode that carries each."""

    JSON = 1
    MSGPACK = 2


class Action(IntEnum):
    """What a ProtocolMessage is for (TR2)."""

    HEARTBEAT = 0
    ACK = 1
    NACK = 2
    CONNECT = 3
    CONNECTED = 4
    DISCONNECT = 5
    DISCONNECTED = 6
    CLOSE = 7
    CLOSED = 8
    ERROR = 9
    ATTACH = 10
    ATTACHED = 11
    DETACH = 12
    DETACHED = 13
    PRESENCE = 14
    MESSAGE = 15
    SYNC = 16
    AUTH = 17
    ACTIVATE = 18
    OBJECT = 19
    OBJECT_SYNC = 20
    ANNOTATION = 21


class Flag(IntFlag):
    """Bits of a ProtocolMessage's flags (TR3)."""

    HAS_PRESENCE = 1 << 0
    HAS_BACKLOG = 1 << 1
    RESUMED = 1 << 2
    TRANSIENT = 1 << 4
    ATTACH_RESUME = 1 << 5
    PRESENCE = 1 << 16
    PUBLISH = 1 << 17
    SUBSCRIBE = 1 << 18
    PRESENCE_SUBSCRIBE = 1 << 19
    ANNOTATION_PUBLISH = 1 << 21
    ANNOTATION_SUBSCRIBE = 1 << 22


MODES: Final = (
    Flag.PRESENCE
    | Flag.PUBLISH
    | Flag.SUBSCRIBE
    | Flag.PRESENCE_SUBSCRIBE
    | Flag.ANNOTATION_PUBLISH
    | Flag.ANNOTATION_SUBSCRIBE
)

# a normal closure, code 1000
CLOSE_FRAME: Final = b"\x88\x02\x03\xe8"

# what a client may send, and the type of each field that the core reads
_FIELD_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "channel": str,
    "channelSerial": str,
    "id": str,
    "flags": int,
    "msgSerial": int,
    "count": int,
    "messages": list,
    "presence": list,
    "annotations": list,
    "params": dict,
    "auth": dict,
}
_LARGEST_NUMBER: Final = 2**53


def pack(value: Any, form: Format) -> bytes:
    """Return *value* in the encoding of *form*."""
    if form is Format.MSGPACK:
        packed: bytes = msgpack.packb(value)
        return packed
    return orjson.dumps(value)


def unpack(data: bytes | str, form: Format) -> Any:
    """Return the value in *data*.

    Raises:
        FrameError: it is not in that encoding, or nested beyond reason.
    """
    try:
        if form is Format.MSGPACK:
            if isinstance(data, str):
                raise FrameError("a msgpack frame has to be binary")
            return msgpack.unpackb(data)
        return orjson.loads(data)
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise FrameError(f"the data is not valid {form.name.lower()}") from error


def decode(data: bytes | str, form: Format) -> dict[str, Any]:
    """Return the ProtocolMessage in one frame; fields that are null are left out.

    Raises:
        FrameError: it is not one, or a field has the wrong type.
    """
    value = unpack(data, form)
    if not isinstance(value, dict):
        raise FrameError("a ProtocolMessage has to be a map")
    return checked(value)


def checked(value: dict[Any, Any]) -> dict[str, Any]:
    """Return *value* without nulls, or refuse it where a type is wrong.

    Raises:
        FrameError: names the field.
    """
    message = {key: item for key, item in value.items() if item is not None}
    if type(message.get("action")) is not int:
        raise FrameError("action has to be an integer")
    for field, kind in _FIELD_TYPES.items():
        item = message.get(field)
        if item is None:
            continue
        if not isinstance(item, kind) or isinstance(item, bool):
            raise FrameError(f"{field} has the wrong type")
        if isinstance(item, int) and not 0 <= item <= _LARGEST_NUMBER:
            raise FrameError(f"{field} is out of range")
    return message


def websocket_frame(payload: bytes, opcode: int) -> bytes:
    """Return *payload* as one unmasked, final WebSocket frame, as a server sends it (RFC 6455)."""
    length = len(payload)
    head = 0x80 | opcode
    if length < 126:  # noqa: PLR2004 - the RFC's own number
        return bytes((head, length)) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", head, 126, length) + payload
    return struct.pack("!BBQ", head, 127, length) + payload


def frame(message: dict[str, Any], form: Format) -> bytes:
    """Return a ProtocolMessage as the bytes of one WebSocket frame."""
    return websocket_frame(pack(message, form), form)


def for_json(message: dict[str, Any]) -> dict[str, Any]:
    """Return *message* with binary data as base64, which JSON needs (RSL4c)."""
    data = message.get("data")
    if not isinstance(data, bytes):
        return message
    encoding = message.get("encoding")
    return message | {
        "data": base64.b64encode(data).decode(),
        "encoding": f"{encoding}/base64" if encoding else "base64",
    }


def from_json(message: dict[str, Any]) -> dict[str, Any]:
    """Undo base64 at the end of the encoding, so that one form is kept for both formats.

    Raises:
        FrameError: the data is not base64, which its encoding names.
    """
    encoding = message.get("encoding")
    data = message.get("data")
    if not isinstance(encoding, str) or not isinstance(data, str):
        return message
    rest, slash, last = encoding.rpartition("/")
    if last != "base64":
        return message
    try:
        plain = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FrameError("the encoding is base64, but the data is not") from error
    decoded = message | {"data": plain, "encoding": rest}
    if not slash:
        del decoded["encoding"]
    return decoded

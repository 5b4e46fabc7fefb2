"""Messages: the fields a publish may have, and each message's wire form, encoded at most once."""

from __future__ import annotations

from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import orjson

from .errors import FrameError, RefusedError
from .frames import Format, for_json, from_json, websocket_frame

CREATE: Final = 0
UPDATE: Final = 1
DELETE: Final = 2
META: Final = 3
SUMMARY: Final = 4
APPEND: Final = 5

_TEXT_FIELDS: Final = ("id", "clientId", "name", "encoding", "connectionKey", "serial")
_OPERATION_FIELDS: Final = ("clientId", "description", "metadata")
_POSITIONS: Final = frozenset({"serial", "version"})
_LONGEST_NAME: Final = 2048


class Message:
    """One message in the form clients read (TM2), with its two encodings made when first needed.

    Attributes:
        fields: what clients read, with binary data as bytes.
        appended: whether this version came about by an append.
        bare: leave serial and version out of what clients read.
    """

    __slots__ = ("_json", "_msgpack", "appended", "bare", "fields")

    def __init__(
        self, fields: dict[str, Any], *, appended: bool = False, bare: bool = False
    ) -> None:
        self.fields = fields
        self.appended = appended
        self.bare = bare
        self._json: bytes | None = None
        self._msgpack: bytes | None = None

    @property
    def serial(self) -> str:
        """The serial of the message's creation; it stays when versions follow."""
        serial: str = self.fields["serial"]
        return serial

    @property
    def version_serial(self) -> str:
        """The serial of this version."""
        serial: str = self.fields["version"]["serial"]
        return serial

    @property
    def timestamp_ms(self) -> int:
        """When the message was created, in milliseconds; versions do not change it."""
        timestamp: int = self.fields["timestamp"]
        return timestamp

    def row(self, form: Format) -> bytes:
        """Return the message's own bytes in that format, as a history page holds them."""
        if form is Format.MSGPACK:
            if self._msgpack is None:
                self._msgpack = msgpack.packb(self._shown())
            return self._msgpack
        if self._json is None:
            self._json = orjson.dumps(for_json(self._shown()))
        return self._json

    def _shown(self) -> dict[str, Any]:
        if not self.bare:
            return self.fields
        return {name: value for name, value in self.fields.items() if name not in _POSITIONS}


class Delivery:
    """One ProtocolMessage with messages that goes to many connections."""

    __slots__ = ("_frames", "head", "key", "messages")

    def __init__(
        self, head: dict[str, Any], messages: list[Message], key: str = "messages"
    ) -> None:
        self.head = head
        self.key = key
        self.messages = messages
        self._frames: dict[tuple[Format, str], bytes] = {}

    @property
    def channel_serial(self) -> str:
        """The position that a client holds after it."""
        serial: str = self.head["channelSerial"]
        return serial

    def frame(self, form: Format, channel: str) -> bytes:
        """Return the WebSocket frame for a client that knows the channel by the name *channel*."""
        found = self._frames.get((form, channel))
        if found is None:
            found = self._encode(form, channel)
            self._frames[form, channel] = found
        return found

    def _encode(self, form: Format, channel: str) -> bytes:
        head = {**self.head, "channel": channel}
        rows = [message.row(form) for message in self.messages]
        if form is Format.MSGPACK:
            packer = msgpack.Packer()
            parts = [packer.pack_map_header(len(head) + 1)]
            for name, value in head.items():
                parts += (packer.pack(name), packer.pack(value))
            parts += (packer.pack(self.key), packer.pack_array_header(len(rows)), *rows)
            return websocket_frame(b"".join(parts), form)
        start = orjson.dumps(head)[:-1]
        body = b"".join((start, b',"', self.key.encode(), b'":[', b",".join(rows), b"]}"))
        return websocket_frame(body, form)


def page(messages: list[Message], form: Format) -> bytes:
    """Return an array of messages from their own bytes; nothing is encoded a second time."""
    rows = [message.row(form) for message in messages]
    if form is Format.MSGPACK:
        header: bytes = msgpack.Packer().pack_array_header(len(rows))
        return header + b"".join(rows)
    return b"[" + b",".join(rows) + b"]"


def accepted(raw: Any, form: Format) -> dict[str, Any]:
    """Return a published message with checked types, in the one form that is kept.

    Raises:
        FrameError: a field has the wrong type.
    """
    if not isinstance(raw, dict):
        raise FrameError("a message has to be a map")
    message = {str(key): value for key, value in raw.items() if value is not None}
    for field in _TEXT_FIELDS:
        if field in message and not isinstance(message[field], str):
            raise FrameError(f"{field} of a message has to be text")
    if len(message.get("name", "")) > _LONGEST_NAME or len(message.get("id", "")) > _LONGEST_NAME:
        raise FrameError("name or id of a message is too long")
    if form is Format.JSON:
        message = from_json(message)
    _check_extras(message)
    data = message.get("data")
    if data is not None and not isinstance(data, (str, bytes)):
        message["data"] = _as_json(data)
        message["encoding"] = "json"
    return message


def accepted_operation(raw: Any) -> dict[str, Any]:
    """Return who changes a message and why, with checked types (MOP2).

    Raises:
        FrameError: a field has the wrong type.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise FrameError("the version of an operation has to be a map")
    operation = {key: raw[key] for key in _OPERATION_FIELDS if raw.get(key) is not None}
    for field in ("clientId", "description"):
        if not isinstance(operation.get(field, ""), str):
            raise FrameError(f"{field} of an operation has to be text")
    if not isinstance(operation.get("metadata", {}), dict):
        raise FrameError("the metadata of an operation have to be a map")
    _as_json(operation)
    return operation


def size_bytes(message: dict[str, Any]) -> int:
    """Return the size that counts against maxMessageSize (TM6)."""
    total = len(message.get("name", "").encode()) + len(message.get("clientId", "").encode())
    data = message.get("data")
    if data is not None:
        total += len(data) if isinstance(data, bytes) else len(data.encode())
    extras = message.get("extras")
    if extras is not None:
        total += len(orjson.dumps(extras))
    return total


def check_size(messages: list[dict[str, Any]], limit_bytes: int) -> None:
    """Refuse a publish that is too large as a whole.

    Raises:
        RefusedError: 40009.
    """
    total = sum(size_bytes(message) for message in messages)
    if total > limit_bytes:
        raise RefusedError(
            40009, f"the maximum message size is {limit_bytes} bytes; this publish has {total}"
        )


def _check_extras(message: dict[str, Any]) -> None:
    extras = message.get("extras")
    if extras is None:
        return
    if not isinstance(extras, dict):
        raise FrameError("extras of a message have to be a map")
    _as_json(extras)


def _as_json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FrameError("data or extras of a message cannot be written as JSON") from error

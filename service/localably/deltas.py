"""Deltas: each message as its difference from the previous one, as VCDIFF (RFC 3284).

Only the bytes between the common prefix and the common suffix of two payloads are sent, so an
encoded window has at most three instructions: copy the prefix, add the middle, copy the suffix. No
maintained package encodes VCDIFF in memory; stock decoders need no more than this.
"""

from __future__ import annotations

from typing import Any, Final

from .messages import Delivery, Message

_MAGIC: Final = b"\xd6\xc3\xc4\x00\x00"  # version 0, default code table, no compression
_WITH_SOURCE: Final = b"\x01"
# codes of the default table whose size follows; VCD_SELF is the mode of plain addresses
_ADD: Final = b"\x01"
_COPY_SELF: Final = b"\x13"


def encode(source: bytes, target: bytes) -> bytes:
    """Return *target* as a VCDIFF delta against *source*, which must not be empty."""
    first = _common(source, target)
    # bytes of the common prefix must not also count for the common suffix
    last = _common(source[first:][::-1], target[first:][::-1])
    middle = target[first : len(target) - last]
    instructions, addresses = b"", b""
    if first:
        instructions += _COPY_SELF + _number(first)
        addresses += _number(0)
    if middle:
        instructions += _ADD + _number(len(middle))
    if last:
        instructions += _COPY_SELF + _number(last)
        addresses += _number(len(source) - last)
    lengths = b"".join(_number(len(part)) for part in (middle, instructions, addresses))
    body = _number(len(target)) + b"\x00" + lengths + middle + instructions + addresses
    segment = _number(len(source)) + _number(0)
    return _MAGIC + _WITH_SOURCE + segment + _number(len(body)) + body


class DeltaStream:
    """The deltas of one attachment: each message against the one delivered before it."""

    __slots__ = ("_base", "_base_id")

    def __init__(self) -> None:
        self._base: bytes | None = None
        self._base_id = ""

    def restart(self) -> None:
        """Send the next message whole, because the one before it was not delivered."""
        self._base = None

    def encoded(self, delivery: Delivery) -> Delivery:
        """Return *delivery* with each message's data as a delta, if that is smaller."""
        messages = [self._next(message) for message in delivery.messages]
        return Delivery(delivery.head, messages, delivery.key)

    def _next(self, message: Message) -> Message:
        fields = message.fields
        data = fields.get("data")
        payload = data.encode() if isinstance(data, str) else data
        base, base_id = self._base, self._base_id
        self._base, self._base_id = payload, fields["id"]
        if not base or not payload:
            return message
        delta = encode(base, payload)
        if len(delta) >= len(payload):
            return message
        steps = [fields.get("encoding"), "utf-8" if isinstance(data, str) else None, "vcdiff"]
        changed: dict[str, Any] = {
            **fields,
            "data": delta,
            "encoding": "/".join(step for step in steps if step),
            "extras": {**fields.get("extras", {}), "delta": {"from": base_id, "format": "vcdiff"}},
        }
        return Message(changed, appended=message.appended, bare=message.bare)


def _common(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _number(value: int) -> bytes:
    """Return an integer in base 128, the most significant digits first (RFC 3284, section 2)."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))

"""Names and positions: conversation ids, serials, attach points, and how they compare.

A *serial* names a channel message and orders it, compared as text. An *attach point* is a
channelSerial: ``<14-digit ms>-<counter>@<series>``. The serial of a message is the channelSerial of
its publish, ``:``, and an index. Compared as text, ``X:000`` is greater than ``X``, although that
message lies at or before the attach point. So the two kinds are compared by prefix, here and
nowhere else (docs/exactness.md section 2).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from rehydrate.errors import BadParameter

MARGIN_MS = 5_000
"""How far before the watermark history is read again, in ms.

It has to exceed the time by which regions may differ in the order of messages, plus
`HISTORY_LAG_MS`, and to stay below the reach of a rewind (two minutes). It also decides when a
read is not needed, how long ids and growing messages are kept, and where replays resume. A larger
margin costs longer reads and more memory.
"""

HISTORY_LAG_MS = 2_000
"""How much later REST history may show a message than the live stream, in ms."""

CONVERSATION_ID_LENGTH = 128
SERIAL_LENGTH = 256
CHANNEL_LENGTH = 2048
_SERIAL_MS_DIGITS = 14
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Cursor(NamedTuple):
    """A place among the finished messages; a page ends before it."""

    position: str
    message_id: str


_DOTS = (".", "..")
"""Not ids: in the path of a URL they mean another path, even percent-encoded."""


def is_name(value: Any) -> bool:
    """Return True if *value* can be the id of a message: 1 to 256 characters of valid text.

    The ids ``.`` and ``..`` would address other routes.
    """
    return isinstance(value, str) and 1 <= len(value) <= SERIAL_LENGTH and _can_be_name(value)


@lru_cache(maxsize=1_024)
def _can_be_name(text: str) -> bool:
    """Cached: every token of a response carries the same name."""
    return not has_control(text) and text not in _DOTS and _is_utf8(text)


def check_message_id(message_id: str, parameter: str = "id") -> str:
    """Return *message_id* if it can be one.

    Raises:
        BadParameter: it is empty, longer than 256 characters, ``.`` or ``..``, or holds a control
            character; names *parameter*.
    """
    if not is_name(message_id):
        raise BadParameter(
            parameter,
            f"{parameter} has 1 to 256 characters, no control characters, and is not . or ..",
        )
    return message_id


def has_control(text: str) -> bool:
    """Return True if *text* holds a control character (C0, DEL or C1)."""
    return _CONTROL.search(text) is not None


def check_conversation_id(conversation_id: str) -> str:
    """Return *conversation_id* if it can name a channel.

    Raises:
        BadParameter: it is empty, longer than 128 characters, ``.`` or ``..``, holds a control
            character or ``*``, or begins with ``[`` or ``:`` (Ably gives those a meaning of their own).
    """
    if not 1 <= len(conversation_id) <= CONVERSATION_ID_LENGTH:
        raise BadParameter("conversation_id", "a conversation id has 1 to 128 characters")
    if has_control(conversation_id) or "*" in conversation_id or not _is_utf8(conversation_id):
        raise BadParameter("conversation_id", "a conversation id has no control characters, no *")
    if conversation_id in _DOTS:
        raise BadParameter("conversation_id", "a conversation id is not . or ..")
    if conversation_id[0] in "[:":
        raise BadParameter("conversation_id", "a conversation id does not begin with [ or :")
    return conversation_id


def check_channel(channel: str) -> str:
    """Return *channel* if Ably takes it as the name of a channel, without params of its own.

    Raises:
        BadParameter: it is empty, longer than 2048 characters, holds a control character, has a
            segment ``*``, or begins with ``[`` or ``:``.
    """
    if not 1 <= len(channel) <= CHANNEL_LENGTH or channel[0] in "[:":
        raise BadParameter(
            "channel", "a channel's name is not empty, and begins with neither [ nor :"
        )
    if has_control(channel) or "*" in channel.split(":") or not _is_utf8(channel):
        raise BadParameter("channel", "a channel's name has no control characters, and no part *")
    return channel


def check_until(until: str | None) -> str | None:
    """Return *until* if it can be an attach point.

    Raises:
        BadParameter: it is empty, longer than 256 characters, or holds a control character.
    """
    if until is not None and not is_name(until):
        raise BadParameter("until", "until is a serial: 1 to 256 characters, no control characters")
    return until


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def channel_serial(serial: str) -> str:
    """Return the channelSerial of a message's *serial*; itself, if it is one."""
    return serial.partition(":")[0]


def at_or_before(serial: str, attach_point: str) -> bool:
    """Return True if the message with *serial* lies at or before *attach_point*.

    ``X:000`` is at or before ``X``, although as text it is greater.
    """
    return channel_serial(serial) <= channel_serial(attach_point)


def serial_time_ms(serial: str) -> int | None:
    """Return the time that *serial* begins with, in ms since 1970; None: it has another form."""
    digits = serial[:_SERIAL_MS_DIGITS]
    if len(digits) == _SERIAL_MS_DIGITS and digits.isascii() and digits.isdigit():
        return int(digits)
    return None


def insertion_position(at_ms: int, index: int) -> str:
    """Return a position for a message without a serial: its time, then *index*.

    It compares with serials as text, so that such messages are ordered among the others.
    """
    return f"{at_ms:0{_SERIAL_MS_DIGITS}d}-{index:06d}@inserted"


def encode_cursor(cursor: Cursor) -> str:
    """Return the opaque form of *cursor*."""
    return base64.urlsafe_b64encode(json.dumps(cursor).encode()).rstrip(b"=").decode()


def decode_cursor(text: str, parameter: str = "before") -> Cursor:
    """Return the cursor that `encode_cursor` made *text* of.

    Raises:
        BadParameter: *text* is not a cursor; names *parameter*.
    """
    try:
        padded = text.encode() + b"=" * (-len(text) % 4)
        decoded = json.loads(base64.b64decode(padded, b"-_", validate=True))
        position, message_id = decoded
        if not (
            isinstance(decoded, list) and isinstance(position, str) and isinstance(message_id, str)
        ):
            raise TypeError  # noqa: TRY301 - one error for everything that is not a cursor
        cursor = Cursor(position, message_id)
        if not (_is_utf8(position + message_id) and "\0" not in position + message_id):
            raise ValueError  # noqa: TRY301 - as above
    except (ValueError, TypeError, binascii.Error) as error:
        raise BadParameter(parameter, f"{parameter} is a cursor of an earlier answer") from error
    return cursor

"""Read the data of a channel message as text, if it can mean only one text.

Publishers outside this project send text in several shapes. A shape that can mean only one text is
read: a string, UTF-8 bytes, an object with a string ``text``. Any other data where text is expected
(a list, another object, a number, ciphertext) is *unreadable*: it is counted, so that a message
that lacks it is never taken for complete. Absent data is empty content, and nothing is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import Undecoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TEXT_PARTS = (None, "text", "input_text")


class ReadableText(NamedTuple):
    """The text that was read; *unreadable*: 1 if content could not be read, else 0."""

    text: str
    unreadable: int = 0


_NOTHING = ReadableText("")
_UNREADABLE = ReadableText("", 1)


def text_in(data: Any) -> str | None:
    """Return the text that *data* means; None if it does not mean exactly one."""
    if isinstance(data, dict):
        data = data.get("text")
    elif isinstance(data, bytes | bytearray):
        try:
            return data.decode()
        except UnicodeDecodeError:
            return None
    return data if isinstance(data, str) else None


def read_text(data: Any) -> ReadableText:
    """Return the readable text of *data*, the content of an event."""
    if data is None:
        return _NOTHING
    text = text_in(data)
    return _UNREADABLE if text is None else ReadableText(text)


def read_prompt(data: Any) -> ReadableText | None:
    """Return the readable text of *data*, a prompt: text, or parts; None: there is no data.

    The text of parts is the texts of the text parts, concatenated. Parts of other types are
    unreadable.
    """
    fields: Mapping[str, Any] = data if isinstance(data, dict) else {}
    parts = data if isinstance(data, list) else fields.get("parts")
    text = text_in(data)
    if parts is None:
        return None if data is None else read_text(data)
    if not isinstance(parts, list) or (text is None and not parts):
        return ReadableText(text or "", 1)
    unreadable = any(_text_of_part(part) is None for part in parts)
    joined = "".join(_texts_of(parts))
    return ReadableText(joined if text is None else text, int(unreadable))


def _texts_of(parts: Iterable[Any]) -> Iterable[str]:
    return (text for part in parts if (text := _text_of_part(part)) is not None)


def _text_of_part(part: Any) -> str | None:
    if isinstance(part, dict) and part.get("type") not in _TEXT_PARTS:
        return None
    return text_in(part) if isinstance(part, dict | str) else None


def carries_text(data: Any) -> bool:
    """Return True if *data* is bytes, undecodable, or has text that is not empty."""
    return isinstance(data, bytes | bytearray | Undecoded) or bool(text_in(data))

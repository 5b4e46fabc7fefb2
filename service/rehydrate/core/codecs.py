"""Codecs turn channel messages into events: this one our own, `ai_transport` and `appends` others.

No other module knows the names and headers of a publisher.

Our own codec is *message-per-token*: every token is a channel message; headers name its response
and its seq. The wire format is specified in docs/protocol.md section 3: names in 3.1, headers in
3.2, members of ``data`` in 3.3. Publishers other than ours leave things out or get them wrong, so
decoding never raises (section 3.4): a message that cannot be placed in a response is not an event
(None), and one that can be placed but not read is a ``void``, which keeps its seq so that no
neighbour looks lost, and is counted as unreadable.

Text of a response under a name that no codec knows is unreadable, too (section 3.7). A deployment
may map such names to ``token``; some names never carry content, and are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core import ai_transport, appends
from rehydrate.core.event import (
    CREATE,
    DELETE,
    STATUSES,
    TERMINAL,
    UPDATE,
    ChannelMessage,
    Event,
    Kind,
    TextKind,
)
from rehydrate.core.json import is_json, sent_bytes
from rehydrate.core.positions import is_name
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.text.content import MAX_SEQ, clean_parts
from rehydrate.core.text.readable import carries_text, read_prompt, read_text, text_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

IGNORED_NAMES = frozenset(
    {
        "debug", "error", "heartbeat", "log", "metadata", "ping", "progress", "rehydrate.echo",
        "status", "title", "trace", "typing", "usage",
    }
)  # fmt: skip
"""Names that carry no content of a response, whatever their data is."""

NO_NAMES: frozenset[str] = frozenset()

_NO_HEADERS: Mapping[str, Any] = {}
_ACTIONS = frozenset({CREATE, UPDATE, DELETE})
_SEQ_DIGITS = 10
_DECIMAL_BELOW = 1e21  # JavaScript, which has no integers, shows larger numbers with an exponent


class _Unplaced(Exception):
    """A header is present and invalid, so that the place of the message is unknown."""


def decode(message: ChannelMessage, token_names: frozenset[str] = NO_NAMES) -> Event | None:
    """Return the event that *message* means; None: no codec recognises it.

    Args:
        message: a channel message.
        token_names: further names that mean ``token``.
    """
    return (
        _decode(message, token_names)
        or ai_transport.decode(message)
        or appends.decode(message)
        or _unreadable(message)
    )


def decode_all(
    messages: Iterable[ChannelMessage], token_names: frozenset[str] = NO_NAMES
) -> Iterator[Event]:
    """Yield the events among *messages*, in their order."""
    for message in messages:
        event = decode(message, token_names)
        if event is not None:
            yield event


def _decode(message: ChannelMessage, token_names: frozenset[str]) -> Event | None:
    name = message.name
    reader = _READERS.get(name) if isinstance(name, str) else None
    if reader is None and name in token_names:
        reader = _READERS["token"]
    if reader is None or message.action not in _ACTIONS:
        return None
    if message.action == DELETE:
        if reader is _repair:
            return None
        message = message._replace(data=_deleted(message))
    extras = message.extras
    headers = extras.get("headers") if isinstance(extras, dict) else None
    if not isinstance(headers, dict):
        headers = _NO_HEADERS
    try:
        event = reader(
            message, headers, bool(extras and extras.get("ephemeral")) if headers else False
        )
    except _Unplaced:
        return None
    return event if message.action == CREATE or event is None else _edited(event, message)


def _deleted(message: ChannelMessage) -> Any:
    """Return the data of a deleted message: its name, if it has one, and no content."""
    if isinstance(message.data, dict):
        return {"promptId": message.data.get("promptId"), "text": ""}
    return "" if message.name == "user-input" else None


def _edited(event: Event, message: ChannelMessage) -> Event | None:
    """Return *event* as a later version of its channel message; None: that cannot be identified."""
    version = message.version_serial
    if message.serial is None:
        return None
    return event if version is None or version <= message.serial else event._replace(edit=version)


def _unreadable(message: ChannelMessage) -> Event | None:
    """Return a void for text of a response under an unknown name; None: nothing is lost.

    A message with a seq occupies its place among the events of the response even if it has no
    content: otherwise a gap would stay there.
    """
    name, extras = message.name, message.extras
    if message.action not in _ACTIONS or name in RESERVED_NAMES or not isinstance(extras, dict):
        return None
    headers = extras.get("headers")
    if not isinstance(headers, dict) or headers.get("responseId") is None or "ai" in extras:
        return None
    ignored = name in IGNORED_NAMES or message.action == DELETE
    if headers.get("seq") is None and (ignored or not carries_text(message.data)):
        return None
    try:
        event = _event(
            "void", message, headers, bool(extras.get("ephemeral")), unreadable=int(not ignored)
        )
    except _Unplaced:
        return None
    return event if message.action == CREATE else _edited(event, message)


def _event(
    kind: Kind, message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool, **more: Any
) -> Event:
    replay_of = headers.get("replayOf")
    return Event(
        kind,
        _name(headers, "responseId"),
        _count(headers, "gen", 1) or 1,
        _count(headers, "seq", 0),
        message.serial,
        message.id,
        message.client_id,
        message.timestamp_ms,
        replay_of=replay_of if isinstance(replay_of, str) else None,
        ephemeral=ephemeral,
        **more,
    )


def _name(headers: Mapping[str, Any], key: str) -> str | None:
    value = headers.get(key)
    if value is None or is_name(value):
        return value
    raise _Unplaced


def _count(headers: Mapping[str, Any], key: str, least: int) -> int | None:
    value = headers.get(key)
    if value is None or (type(value) is int and least <= value <= MAX_SEQ):  # nearly always
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value) if len(value) <= _SEQ_DIGITS else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_SEQ:
        return value
    raise _Unplaced


def _label(headers: Mapping[str, Any], key: str) -> str | None:
    value = headers.get(key)
    if isinstance(value, float) and value.is_integer() and abs(value) < _DECIMAL_BELOW:
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and is_json(value):
        return str(value)
    return value if isinstance(value, str) else None


def _json_or_none(value: Any) -> Any:
    return value if is_json(value) else None


def _prompt(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event | None:
    data = message.data
    said = read_prompt(data)
    given = data.get("promptId") if isinstance(data, dict) else None
    prompt_id = message.id if given is None or given == "" else given
    if said is None or not is_name(prompt_id):
        return None
    _event("void", message, headers, ephemeral)  # its headers must make sense, although unused
    replay_of = headers.get("replayOf")
    return Event.prompt(
        prompt_id,
        said.text,
        serial=message.serial,
        id=message.id,
        client_id=message.client_id,
        timestamp_ms=message.timestamp_ms,
        replay_of=replay_of if isinstance(replay_of, str) else None,
        ephemeral=ephemeral,
        unreadable=said.unreadable,
    )


def _start(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    return _event("start", message, headers, ephemeral, prompt_id=_label(headers, "promptId"))


def _cancel(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    return _event("cancel", message, headers, ephemeral)


def _textual(kind: TextKind) -> Callable[[ChannelMessage, Mapping[str, Any], bool], Event]:
    def read(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
        text = message.data
        if not isinstance(text, str):
            text, unreadable = read_text(text)
            if unreadable:
                return _void(message, headers, ephemeral)
        replay_of = headers.get("replayOf")
        return Event.content(
            kind,
            _name(headers, "responseId"),
            _count(headers, "gen", 1) or 1,
            _count(headers, "seq", 0),
            message.serial,
            message.id,
            message.client_id,
            message.timestamp_ms,
            text,
            _label(headers, "part"),
            replay_of if isinstance(replay_of, str) else None,
            ephemeral,
        )

    return read


def _void(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    """Return an event whose content cannot be read."""
    return _event("void", message, headers, ephemeral, unreadable=1)


def _tool_call(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    data = message.data if isinstance(message.data, dict) else {}
    args = data.get("args")
    if not is_json(args):
        return _void(message, headers, ephemeral)
    call_id = _label(headers, "toolCallId") or message.id or f"call-{_count(headers, 'seq', 0)}"
    return _event(
        "tool_call",
        message,
        headers,
        ephemeral,
        part=_label(headers, "part"),
        tool_call_id=call_id,
        name=_label(data, "name"),
        value="" if args is None else args,
        unreadable=int(not isinstance(message.data, dict | None)),
    )


def _tool_args(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    call_id = _label(headers, "toolCallId")
    text, unreadable = read_text(message.data)
    if not call_id or unreadable:
        return _void(message, headers, ephemeral)
    return _event("tool_args", message, headers, ephemeral, text=text, tool_call_id=call_id)


def _tool_result(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    call_id, data = _label(headers, "toolCallId"), message.data
    if not isinstance(data, dict):
        text = text_in(data)
        data = {"result": data if text is None else text}
    if not call_id or not is_json(data.get("result")):
        return _void(message, headers, ephemeral)
    return _event(
        "tool_result",
        message,
        headers,
        ephemeral,
        name=_label(data, "name"),
        tool_call_id=call_id,
        value=data.get("result"),
        status="failed" if headers.get("status") == "failed" else None,
    )


def _stop(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    data = message.data if isinstance(message.data, dict) else {}
    status = _label(headers, "status") or "completed"
    if status not in TERMINAL:
        status = "failed" if status in STATUSES else "completed"
    error = _json_or_none(headers.get("error"))
    if error is None:
        error = _json_or_none(data.get("reason"))
    usage = _json_or_none(data.get("usage"))
    return _event("stop", message, headers, ephemeral, status=status, error=error, value=usage)


def _repair(message: ChannelMessage, headers: Mapping[str, Any], ephemeral: bool) -> Event:
    data = message.data
    parts = clean_parts(data.get("parts")) if isinstance(data, dict) else None
    return _event("repair", message, headers, ephemeral, text=text_in(data), value=parts)


_READERS: dict[str, Callable[[ChannelMessage, Mapping[str, Any], bool], Event | None]] = {
    "user-input": _prompt,
    "start": _start,
    "cancel": _cancel,
    "token": _textual("token"),
    "refusal": _textual("refusal"),
    "reasoning": _textual("reasoning"),
    "tool_call": _tool_call,
    "tool_args": _tool_args,
    "tool_result": _tool_result,
    "stop": _stop,
    "response-complete": _repair,
}

RESERVED_NAMES = _READERS.keys() | {appends.END}
"""Names with a fixed meaning, which a deployment cannot change."""


CHUNK_CHARACTERS = 12_000
"""Longer text is split: in UTF-8, and escaped, a chunk fits the smallest message size (64 KiB)."""

REPAIR_BYTES = 48_000
"""A larger repair is published as a pointer: readers hydrate again."""


def split_text(text: str) -> list[str]:
    """Return *text* in chunks that fit a channel message."""
    if len(text) <= CHUNK_CHARACTERS:
        return [text]
    return [text[i : i + CHUNK_CHARACTERS] for i in range(0, len(text), CHUNK_CHARACTERS)]


def encode(event: Event) -> tuple[str, Any, dict[str, Any]]:
    """Return name, data and extras of the channel message for *event*."""
    if event.kind == "prompt":
        return "user-input", {"promptId": event.message_id, "text": event.text}, {}
    headers = {
        "responseId": event.message_id,
        "seq": event.seq,
        "gen": event.gen,
        "promptId": event.prompt_id,
        "part": event.part,
        "toolCallId": event.tool_call_id,
        "status": event.status,
        "error": event.error,
        "replayOf": event.replay_of,
    }
    headers = {key: value for key, value in headers.items() if value is not None}
    name = "response-complete" if event.kind == "repair" else event.kind
    extras: dict[str, Any] = {"headers": headers}
    if event.ephemeral:
        extras["ephemeral"] = True
    return name, _data(event), extras


def _data(event: Event) -> Any:
    if event.kind == "tool_call":
        return {"name": event.name, "args": event.value}
    if event.kind == "tool_result":
        return {"name": event.name, "result": event.value}
    if event.kind == "stop":
        return None if event.value is None else {"usage": event.value}
    if event.kind == "repair":
        data = {"text": spoken_text(event.value), "parts": event.value}
        return data if sent_bytes(data) <= REPAIR_BYTES else None
    return event.text

"""The AI Transport SDK's wire format, as `@ably/ai-transport` 0.8 publishes it.

What its messages mean here is specified in docs/protocol.md section 5.

A *run* is a response. `ai-run-start` begins it and `ai-run-end` ends it. Between them are
`ai-output` messages, each of them a part: streamed ones grow by appends, others come whole. Headers
are under `extras.ai` in two tiers: `transport` names run, step and message, `codec` describes the
content. Outputs of a *step* count only until a later attempt at it begins. Of the codecs' kinds
(Vercel's and OpenAI's) text, reasoning, refusals and tool calls are read. Text of any other kind, and
data that cannot be read, count as unreadable; other kinds are ignored. A suspended run stays open.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rehydrate.core.appends import text_of, version_of
from rehydrate.core.event import APPEND, DELETE, ChannelMessage, Event, Kind, Status
from rehydrate.core.json import is_json
from rehydrate.core.positions import is_name
from rehydrate.core.text.readable import carries_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rehydrate.core.event import Version

Tier = dict[str, str]

_ENDS: Mapping[str, Status] = {
    "complete": "completed",
    "cancelled": "cancelled",
    "error": "failed",
}
_TEXTUAL: Mapping[str, Kind] = {
    "text": "token",
    "output_text": "token",
    "refusal": "refusal",
    "reasoning": "reasoning",
    "reasoning_text": "reasoning",
    "reasoning_summary_text": "reasoning",
}
_CLOSED = ("complete", "cancelled")


def decode(message: ChannelMessage) -> Event | None:
    """Return the event that *message* means; None: it is not of this codec, or not shown."""
    tiers = _tiers(message)
    if tiers is None:
        return None
    name = message.name
    if name is None and message.action == APPEND:
        name = "ai-output"  # the name of an append need not be echoed, and nothing else grows
    reader = _READERS.get(name) if isinstance(name, str) else None
    return None if reader is None else reader(message, *tiers)


def _tiers(message: ChannelMessage) -> tuple[Tier, Tier] | None:
    extras = message.extras
    ai = extras.get("ai") if isinstance(extras, dict) else None
    if not isinstance(ai, dict):
        return None
    return _tier(ai.get("transport")), _tier(ai.get("codec"))


def _tier(value: Any) -> Tier:
    if not isinstance(value, dict):
        return {}
    return {key: each for key, each in value.items() if isinstance(each, str)}


def _event(
    kind: Kind, message_id: str | None, message: ChannelMessage, **more: Any
) -> Event | None:
    if not is_name(message_id):
        return None
    return Event(
        kind,
        message_id,
        serial=message.serial,
        id=message.id,
        client_id=message.client_id,
        timestamp_ms=message.timestamp_ms,
        **more,
    )


def _run_start(message: ChannelMessage, transport: Tier, _: Tier) -> Event | None:
    prompt_id = transport.get("input-codec-message-id")
    return _event("start", transport.get("run-id"), message, prompt_id=prompt_id)


def _run_end(message: ChannelMessage, transport: Tier, _: Tier) -> Event | None:
    reason = transport.get("run-reason", "complete")
    error = None
    if reason == "error":
        error = {"code": transport.get("error-code"), "message": transport.get("error-message")}
    status = _ENDS.get(reason, "completed")
    return _event("stop", transport.get("run-id"), message, status=status, error=error)


def _cancel(message: ChannelMessage, transport: Tier, _: Tier) -> Event | None:
    return _event("cancel", transport.get("run-id"), message)


def _step_start(message: ChannelMessage, transport: Tier, _: Tier) -> Event | None:
    """Return the beginning of a step: an attempt is named by the serial of this message."""
    version = version_of(message, step=transport.get("step-id"), attempt=message.serial)
    return _content("void", message, transport, version)


def _input(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    kind, data = codec.get("kind"), message.data
    if kind == "user-message" and transport.get("role", "user") == "user":
        text, unreadable = text_of(message)
        if codec.get("partType") not in ("text", "input_text"):
            text, unreadable = "", int(data is not None and message.action != DELETE)
        version = version_of(message, is_last=True) if message.serial is not None else None
        prompt_id = transport.get("codec-message-id")
        return _event(
            "prompt", prompt_id, message, text=text, version=version, unreadable=unreadable
        )
    if kind in ("tool-result", "tool-result-error"):
        if (superseded := transport.get("supersedes")) is not None:
            return _event("stop", superseded, message, status="incomplete")
        fields = data if isinstance(data, dict) else {}
        failed = kind == "tool-result-error"
        result = {"error": fields.get("message")} if failed else fields.get("output")
        return _result(message, transport, codec, result, failed=failed, only_adds=True)
    return None


def _output(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    kind = codec.get("kind", "")
    if (textual := _TEXTUAL.get(kind)) is not None:
        version = _version(message, transport)
        text, unreadable = text_of(message)
        return _content(textual, message, transport, version, text=text, unreadable=unreadable)
    reader = _OUTPUTS.get(kind)
    event = None if reader is None else reader(message, transport, codec)
    if event is None and codec.get("preliminary") != "true":
        data = message.data
        lost = carries_text(data) if reader is None else data not in (None, "")
        if lost and message.action != DELETE:
            version = _version(message, transport)
            return _content("void", message, transport, version, unreadable=1)
    if event is None and "step-start-serial" in transport:  # a later attempt may have begun
        return _content("void", message, transport, _version(message, transport))
    return event


def _version(message: ChannelMessage, transport: Tier) -> Version:
    streamed = transport.get("stream") == "true"
    return version_of(
        message,
        is_last=not streamed or transport.get("status") in _CLOSED,
        step=transport.get("step-id"),
        attempt=transport.get("step-start-serial"),
    )


def _content(
    kind: Kind, message: ChannelMessage, transport: Tier, version: Version, **more: Any
) -> Event | None:
    if message.serial is None:
        return None
    return _event(kind, transport.get("run-id"), message, version=version, **more)


def _tool_input(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    streamed = transport.get("stream") == "true"
    call_id = codec.get("toolCallId") or transport.get("stream-id")
    return _call(message, transport, call_id, codec.get("toolName"), streamed=streamed)


def _arguments(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    try:
        item = json.loads(codec.get("item", ""))
    except (ValueError, RecursionError):
        item = None
    fields = item if isinstance(item, dict) else {}
    name = fields.get("name")
    call_id = fields.get("call_id") or transport.get("stream-id")
    return _call(
        message, transport, call_id, name if isinstance(name, str) else None, streamed=True
    )


def _call(
    message: ChannelMessage, transport: Tier, call_id: Any, name: str | None, *, streamed: bool
) -> Event | None:
    if not isinstance(call_id, str) or not is_json(message.data):
        return None
    fields = {"tool_call_id": call_id, "name": name, "value": message.data}
    if streamed:
        text, unreadable = text_of(message)
        fields |= {"value": "", "text": text, "unreadable": unreadable}
    return _content("tool_call", message, transport, _version(message, transport), **fields)


def _tool_output(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    if codec.get("preliminary") == "true":
        return None
    fields = message.data if isinstance(message.data, dict) else {}
    return _result(message, transport, codec, fields.get("output"))


def _tool_error(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    fields = message.data if isinstance(message.data, dict) else {}
    return _result(message, transport, codec, {"error": fields.get("errorText")}, failed=True)


def _tool_denied(message: ChannelMessage, transport: Tier, codec: Tier) -> Event | None:
    return _result(message, transport, codec, {"error": "denied"}, failed=True)


def _call_output(message: ChannelMessage, transport: Tier, _: Tier) -> Event | None:
    item = message.data.get("item") if isinstance(message.data, dict) else None
    fields = item if isinstance(item, dict) else {}
    call_id = fields.get("call_id")
    named = {"call_id": call_id} if isinstance(call_id, str) else {}
    return _result(message, transport, named, fields.get("output"))


def _result(
    message: ChannelMessage,
    transport: Tier,
    codec: Tier,
    result: Any,
    *,
    failed: bool = False,
    only_adds: bool = False,
) -> Event | None:
    call_id = codec.get("toolCallId") or codec.get("call_id")
    if call_id is None or not is_json(result):
        return None
    version = _version(message, transport)._replace(only_adds=only_adds)
    fields: Mapping[str, Any] = {"tool_call_id": call_id, "value": result}
    status: Status | None = "failed" if failed else None
    return _content("tool_result", message, transport, version, **fields, status=status)


_READERS: dict[str, Callable[[ChannelMessage, Tier, Tier], Event | None]] = {
    "ai-run-start": _run_start,
    "ai-run-end": _run_end,
    "ai-cancel": _cancel,
    "ai-step-start": _step_start,
    "ai-input": _input,
    "ai-output": _output,
}

_OUTPUTS: dict[str, Callable[[ChannelMessage, Tier, Tier], Event | None]] = {
    "tool-input": _tool_input,
    "tool-input-error": _tool_error,
    "tool-output-available": _tool_output,
    "tool-output-error": _tool_error,
    "tool-output-denied": _tool_denied,
    "function_call_arguments": _arguments,
    "function_call_output": _call_output,
}

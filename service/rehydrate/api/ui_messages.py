"""The Vercel AI SDK's formats: UI messages, and the UI message stream (v1).

With them the SDK's `reconnectToStream` works against this service: the stream sends one response
from its beginning, as chunks, and continues with live events. The format cannot retract chunks: if
the response is repaired or taken over so that its text changes, the stream ends with an error and
the client must load the conversation again.

Text is never joined over a gap: where seqs are missing, the text part ends, a part ``data-gap`` with
the missing seqs follows, and another text part begins. The metadata has the ``gaps`` of the message,
and its ``exact`` is false then: it is the only sign that a client of this format may know.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rehydrate.api.sse import EventStream
from rehydrate.core.event import SETTLED, TERMINAL
from rehydrate.core.json import dump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.hydrate.hydrate import Hydrated

MESSAGES = "ui-messages"
STREAM = "ui-message-stream"

_HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
_TEXTUAL = ("text", "reasoning", "refusal")
_GAP = "data-gap"
_PART_OF_EVENT = {"token": "text", "void": "text", "refusal": "refusal", "reasoning": "reasoning"}
_WHOLE = {"exact": True, "gaps": []}
_REFUSAL = {"rehydrate": {"refusal": True}}
_CHANGED = "the response has changed: load the conversation again"
_NO_RESULT = "the response ended before the tool returned a result"
_REASONS = {"completed": "stop", "incomplete": "length"}
_KEPT = ("status", "prompt_id", "started_at", "finished_at", "usage", "error", "exact", "metadata")

Json = dict[str, Any]


def answer(hydrated: Hydrated) -> bytes:
    """Return the hydrated conversation with its messages as UI messages."""
    body = json.loads(hydrated.body)
    return dump({**body, "messages": [message(each) for each in body["messages"]]})


def message(body: Json) -> Json:
    """Convert a message in its wire form to a UI message."""
    ended = body["status"] in TERMINAL
    parts = body["parts"] or [{"type": "text", "text": body["text"]}]
    metadata = {key: body[key] for key in _KEPT if body.get(key) is not None} | _wholeness(body)
    shown = [_shown(part, ended) for part in _cut_at_gaps(parts)]
    return {"id": body["id"], "role": body["role"], "metadata": metadata, "parts": shown}


def _wholeness(body: Json) -> Json:
    """Return why the text of a message may be incomplete; empty if it is not."""
    gaps, exact = body.get("gaps") or [], body.get("exact", True)
    if exact and not gaps:
        return {}
    unreadable = {"unreadable": body["unreadable"]} if body.get("unreadable") else {}
    return {"exact": False, "gaps": gaps, **unreadable}


def _cut_at_gaps(parts: list[Json]) -> Iterator[Json]:
    """Yield *parts* with their texts cut where seqs are missing, and a part for each gap."""
    for part in parts:
        gaps = part.get("gaps", ())
        if not gaps or part["type"] not in _TEXTUAL:
            yield part
        begin = 0
        for at, first, last in gaps:
            yield from _piece(part, begin, at)
            yield {
                "type": _GAP,
                "id": f"gap-{first}-{last}",
                "data": {"first": first, "last": last},
            }
            begin = at
        if gaps:
            yield from _piece(part, begin, None)


def _piece(part: Json, begin: int, end: int | None) -> Iterator[Json]:
    """Yield the characters *begin* … *end* of a text part as a part; nothing if there are none."""
    if part["type"] in _TEXTUAL and (text := part["text"][begin:end]):
        yield {**part, "text": text}


def _shown(part: Json, ended: bool) -> Json:
    if part["type"] == _GAP:
        return part
    return _text(part, ended) if part["type"] in _TEXTUAL else _tool(part)


def _text(part: Json, ended: bool) -> Json:
    kind = "reasoning" if part["type"] == "reasoning" else "text"
    shown: Json = {"type": kind, "text": part["text"], "state": "done" if ended else "streaming"}
    if part["type"] == "refusal":
        shown["providerMetadata"] = _REFUSAL
    return shown


def _tool(part: Json) -> Json:
    """Convert a tool call.

    A call whose arguments still stream has the state ``input-available``: the SDK would try to
    resume a part in the state ``input-streaming``.
    """
    shown: Json = {
        "type": "dynamic-tool",
        "toolName": part["name"] or "tool",
        "toolCallId": part["tool_call_id"],
        "input": _input(part["args"]),
    }
    if part["status"] == "completed":
        return {**shown, "state": "output-available", "output": part["result"]}
    if part["status"] == "failed":
        return {**shown, "state": "output-error", "errorText": _tool_error(part["result"])}
    if part["status"] == "incomplete":
        return {**shown, "state": "output-error", "errorText": _NO_RESULT}
    return {**shown, "state": "input-available"}


def _input(args: Any) -> Any:
    """Return the arguments as a value, or as text if they are not (yet) valid JSON."""
    if not isinstance(args, str):
        return args
    try:
        return json.loads(args) if args else {}
    except (ValueError, RecursionError):
        return args


def streaming(events: list[FollowEvent], response_id: str | None) -> Json | None:
    """Return the message to stream from the snapshot in *events*; None if it is not in progress.

    Args:
        events: the first events of a follower.
        response_id: the response to stream; None: the newest one in progress.
    """
    if not events or events[0].kind != "snapshot":
        return None
    found: list[Json] = [
        each
        for each in events[0].data["messages"]
        if each["status"] == "in_progress" and response_id in (None, each["id"])
    ]
    return found[-1] if found else None


class _Block:
    """The part of a message sent so far. ``text``: its text, or the arguments of a tool call."""

    __slots__ = ("answered", "ended", "id", "key", "text", "type")

    def __init__(self, type_: str, key: str | None, id_: str) -> None:
        self.type = type_
        self.key = key
        self.id = id_
        self.text = ""
        self.ended = self.answered = False


class _ChangedError(Exception):
    """The chunks sent so far are no longer a prefix of the response."""


class Chunks:
    """Converts the events of one response to chunks of a UI message stream, each sent once.

    Args:
        response_id: the response to convert.

    Attributes:
        done: True once the last chunk was returned.
    """

    def __init__(self, response_id: str) -> None:
        self.done = False
        self._id = response_id
        self._gen: int | None = None
        self._wholeness: Json = {}
        self._blocks: list[_Block] = []

    def convert(self, event: FollowEvent) -> list[Json]:
        """Return the chunks of *event*; none if it belongs to another message."""
        if self.done or event.kind == "again":
            return []
        data = event.data
        try:
            if event.kind == "snapshot":
                return list(self._snapshot(data["messages"]))
            return list(self._event(event.kind, data)) if data["message_id"] == self._id else []
        except _ChangedError:
            self.done = True
            return [{"type": "error", "errorText": _CHANGED}]

    def _snapshot(self, messages: list[Json]) -> Iterator[Json]:
        body = next((each for each in messages if each["id"] == self._id), None)
        if body is None or self._gen not in (None, body["through"]["gen"]):
            raise _ChangedError
        wholeness = _wholeness(body)
        if self._gen is None:
            metadata = message(body)["metadata"]
            yield {"type": "start", "messageId": self._id, "messageMetadata": metadata}
        elif wholeness != self._wholeness:
            known = {"unreadable": 0} if "unreadable" in self._wholeness else {}
            yield {"type": "message-metadata", "messageMetadata": {**_WHOLE, **known, **wholeness}}
        self._gen, self._wholeness = body["through"]["gen"], wholeness
        yield from self._parts(body["parts"])
        if body["status"] in TERMINAL:
            yield from self._stop(body)

    def _event(self, kind: str, data: Json) -> Iterator[Json]:
        if data["gen"] != self._gen:
            raise _ChangedError
        yield from self._unreadable(kind, data.get("unreadable", 0))
        if kind in _PART_OF_EVENT:
            yield from self._text(_PART_OF_EVENT[kind], data.get("part"), data.get("text") or "")
        elif kind in ("tool_call", "tool_args", "tool_result"):
            yield from self._tool(kind, data)
        elif kind == "repair":
            parts = data.get("parts") or [{"type": "text", "text": data.get("text") or ""}]
            yield from self._parts(parts)
        elif kind == "stop":
            yield from self._stop(data)

    def _unreadable(self, kind: str, added: int) -> Iterator[Json]:
        """Yield metadata if unreadable messages were *added*, or a repair changed their number."""
        count = self._wholeness.get("unreadable", 0)
        now = added if kind == "repair" else count + added
        if now != count:
            self._wholeness = {**_WHOLE, **self._wholeness, "exact": False, "unreadable": now}
            yield {"type": "message-metadata", "messageMetadata": self._wholeness}

    def _parts(self, parts: list[Json]) -> Iterator[Json]:
        """Yield the chunks that extend the sent blocks to *parts*.

        Raises:
            _ChangedError: the sent blocks are not a prefix of *parts*.
        """
        parts = [p for p in _cut_at_gaps(parts) if p["type"] not in _TEXTUAL or p["text"]]
        if len(parts) < len(self._blocks):
            raise _ChangedError
        for index, part in enumerate(parts):
            block = self._blocks[index] if index < len(self._blocks) else None
            is_text = part["type"] in _TEXTUAL
            key = part.get("part") if is_text else part.get("tool_call_id") or part["id"]
            if block is not None and (block.type, block.key) != (part["type"], key):
                raise _ChangedError
            if part["type"] == _GAP:
                if block is None:
                    yield from self._gap(part)
                continue
            if is_text:
                had = "" if block is None else block.text
                if not part["text"].startswith(had):
                    raise _ChangedError
                yield from self._text(part["type"], key, part["text"][len(had) :], block)
                continue
            yield from self._tool("tool_call", part)
            if part["status"] in SETTLED:
                yield from self._tool("tool_result", part)

    def _text(
        self, type_: str, key: str | None, text: str, block: _Block | None = None
    ) -> Iterator[Json]:
        if not text:
            return
        kind = "reasoning" if type_ == "reasoning" else "text"
        block = block or self._open(type_, key)
        if block is None:
            yield from self._end(lambda each: each.type in _TEXTUAL and each.key is None)
            block = self._begin(type_, key, str(len(self._blocks)))
            begun: Json = {"type": f"{kind}-start", "id": block.id}
            yield begun | ({"providerMetadata": _REFUSAL} if type_ == "refusal" else {})
        if block.ended:
            raise _ChangedError
        block.text += text
        yield {"type": f"{kind}-delta", "id": block.id, "delta": text}

    def _gap(self, part: Json) -> Iterator[Json]:
        """Yield the part that stands for missing text, after the end of the text before it."""
        yield from self._end(lambda each: each is self._blocks[-1])
        self._begin(_GAP, part["id"], part["id"])
        yield part

    def _open(self, type_: str, key: str | None) -> _Block | None:
        """Return the block that text is appended to; without a key only the last block can be.

        None after a gap: the text begins another block.
        """
        found = self._blocks[-1:] if key is None else self._blocks[::-1]
        same = (each for each in found if (each.type, each.key) == (type_, key))
        return next((each for each in same if key is None or not each.ended), None)

    def _begin(self, type_: str, key: str | None, id_: str) -> _Block:
        block = _Block(type_, key, id_)
        self._blocks.append(block)
        return block

    def _end(self, which: Any) -> Iterator[Json]:
        for block in self._blocks:
            if which(block) and not block.ended and block.type in _TEXTUAL:
                block.ended = True
                kind = "reasoning" if block.type == "reasoning" else "text"
                yield {"type": f"{kind}-end", "id": block.id}

    def _tool(self, kind: str, data: Json) -> Iterator[Json]:
        call_id = data["tool_call_id"]
        block = next((b for b in self._blocks if (b.type, b.key) == ("tool_call", call_id)), None)
        named = {"toolCallId": call_id, "dynamic": True}
        if block is None:
            block = self._begin("tool_call", call_id, data.get("name") or "tool")
            yield {"type": "tool-input-start", **named, "toolName": block.id}
        args = block.text + (data.get("text") or "") if kind == "tool_args" else block.text
        if kind == "tool_call":
            args = _as_text(data["args"])
        if not args.startswith(block.text):
            raise _ChangedError
        more, block.text = args[len(block.text) :], args
        if more:
            yield {"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": more}
        whole = kind == "tool_result" or not isinstance(data.get("args", ""), str)
        if whole and not block.ended:
            block.ended = True
            called = {"toolName": block.id, "input": _input(block.text)}
            yield {"type": "tool-input-available", **named, **called}
        if kind == "tool_result" and not block.answered:
            block.answered = True
            yield _output(named, data)

    def _stop(self, data: Json) -> Iterator[Json]:
        self.done = True
        yield from self._end(lambda _: True)
        status = data.get("status") or "completed"
        metadata = {key: data[key] for key in ("usage", "error") if data.get(key) is not None}
        yield {"type": "message-metadata", "messageMetadata": {"status": status, **metadata}}
        if status == "failed":
            yield {"type": "error", "errorText": _error_text(data.get("error"))}
        elif status == "cancelled":
            yield {"type": "abort", "reason": "cancelled"}
        else:
            yield {"type": "finish", "finishReason": _REASONS.get(status, "other")}


def _output(named: Json, data: Json) -> Json:
    result = data.get("result")
    if data.get("status") == "failed":
        return {"type": "tool-output-error", **named, "errorText": _tool_error(result)}
    return {"type": "tool-output-available", **named, "output": result}


def _tool_error(result: Any) -> str:
    """Return the error text of a failed tool call; the SDK accepts only text."""
    error = result.get("error") if isinstance(result, dict) and "error" in result else result
    return _NO_RESULT if error is None else _as_text(error)


def _as_text(args: Any) -> str:
    return args if isinstance(args, str) else dump(args).decode()


def _error_text(error: Any) -> str:
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) else "the response failed"


class UiMessageStream(EventStream):
    """One response as a UI message stream, until it ends."""

    own_headers = _HEADERS

    def start_with(self, first: list[FollowEvent], response_id: str) -> None:
        """Set the response to stream, and the events that the follower has already delivered."""
        self._chunks = Chunks(response_id)
        self.first = self._encoded(first)

    def end_event(self, code: str, detail: str) -> bytes:  # noqa: ARG002 - the signature of the base
        """Return nothing: the format has no chunk for it."""
        return b""

    def chunks(self, events: list[FollowEvent]) -> Iterator[tuple[bytes, object]]:
        """Yield the chunks of *events*, and the end of the stream after the last chunk."""
        if body := self._encoded(events):
            yield body, None

    def _encoded(self, events: list[FollowEvent]) -> bytes:
        chunks = [chunk for each in events for chunk in self._chunks.convert(each)]
        body = b"".join([b"data: %b\n\n" % dump(chunk) for chunk in chunks])
        if not self._chunks.done:
            return body
        self.end()
        return body + b"data: [DONE]\n\n"

"""Translate chunks of the Chat Completions API into typed events, without I/O.

There is one type of chunk, and no chunk repeats content: a text is the sum of its deltas. Tool calls
are identified by index, and their arguments arrive in pieces. Gateways leave the index out or give
every call the same one, so the id and the name count too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rehydrate.core.json import dump
from rehydrate.providers.failures import (
    ProviderError,
    StreamBroken,
    StreamUnreadable,
    VendorCancelled,
    VendorFailed,
    VendorIncomplete,
    failure_of,
    vendor_failure,
)
from rehydrate.providers.interpreting import (
    Events,
    Interpreter,
    RawEvent,
    Rule,
    dict_in,
    dicts_in,
    index_in,
    plain,
    str_or,
)
from rehydrate.providers.vendor_events import Progress, Started, VendorEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehydrate.providers.answer_items import Call, Item

CHUNK = "chat.completion.chunk"

_REASONING = ("reasoning_content", "reasoning")
"""Fields that gateways add for a model's reasoning; a chunk may have both, with the same text."""

_INCOMPLETE = {"length": "length", "max_tokens": "length", "model_length": "length"}
_KNOWN = ("stop", "tool_calls")


class ChatInterpreter(Interpreter):
    """Interprets the chunks of one completion.

    Attributes:
        completion_id: the vendor's id of the completion, once it is known.
    """

    runnable = frozenset({"function"})

    def __init__(self, rules: Mapping[str, Rule], *, prefix: str = "") -> None:
        super().__init__(rules, prefix=prefix)
        self.completion_id: str | None = None
        self._choice: int | None = None
        self._finish: RawEvent | None = None
        self._reason: str | None = None
        self._usage: Any = None
        self._items: dict[str, Item] = {}
        self._calls: dict[int | None, Item] = {}
        self._last_call: Item | None = None

    def parse(self, raw: Any) -> RawEvent:
        """Parse a chunk of the vendor; see `Interpreter.parse`."""
        if isinstance(raw, StreamUnreadable):
            raise raw
        fields = plain(raw)
        if not isinstance(fields, dict):
            raise StreamUnreadable("malformed_event", "a chunk that is not an object")
        if fields.get("error"):
            return RawEvent("error", None, fields)
        named = str_or(fields.get("type"), str_or(fields.get("event"), "an empty chunk"))
        return RawEvent(CHUNK if "choices" in fields else named, None, fields)

    def chunk(self, incoming: RawEvent) -> Events:
        """Handle a chunk: more text, more of a call, the finish reason, or token counts."""
        events: list[VendorEvent] = []
        id_ = str_or(incoming.fields.get("id"), "")
        if id_ and self.completion_id is None:
            self.completion_id = id_
            events.append(Started(incoming.type, None, "completion", id_))
        self._usage = incoming.fields.get("usage") or self._usage
        for choice in dicts_in(incoming.fields.get("choices")):
            index = index_in(choice, "index") or 0
            self._choice = index if self._choice is None else self._choice
            if index != self._choice:
                return self.fail(StreamUnreadable("several_choices", "ask for one: n=1"))
            events += self._read_choice(incoming, choice)
        return events or (Progress(*incoming),)

    def error(self, incoming: RawEvent) -> Events:
        """Handle an error that the vendor reports within the stream."""
        error = incoming.fields["error"]
        failure = vendor_failure(error if isinstance(error, dict) else {"message": str(error)})
        return (self.ended(incoming.type, "failed", error=failure, usage=_dict(self._usage)),)

    def break_off(self) -> Events:
        """End the answer if its finish reason is known; the API has no event for the end."""
        if self._finish is None:
            return super().break_off()
        return self._close(self._finish)

    def fail(self, error: BaseException) -> Events:
        """End the answer because of *error*, unless it had ended and only the connection broke."""
        if self._finish is not None and isinstance(failure_of(error), StreamBroken):
            return self._close(self._finish)
        return super().fail(error)

    def message(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer as a message of the next request.

        Args:
            answers: the ids of the calls in that request, by the ids of their parts.
        """
        item = self._items.get("message")
        texts = [] if item is None else [t for t in item.texts.values() if t.kind == "text"]
        text = "".join(text.tally.text() or "" for text in texts)
        calls = [item.call for item in self.content.items if item.call is not None]
        return {
            "role": "assistant",
            "content": text or None,
            "tool_calls": [
                {
                    "id": answers[call.id],
                    "type": "function",
                    "function": {"name": call.name, "arguments": _object(call)},
                }
                for call in calls
                if call.id in answers
            ],
        }

    def _read_choice(self, incoming: RawEvent, choice: dict[str, Any]) -> list[VendorEvent]:
        delta = dict_in(choice, "delta") or dict_in(choice, "message")
        events: list[VendorEvent] = []
        reasoning = next((text for key in _REASONING if (text := _text(delta.get(key)))), "")
        reasoning = reasoning or _text(delta.get("content"), "thinking")
        events += self._write(incoming, "reasoning", "reasoning", reasoning)
        events += self._write(incoming, "message", "text", _text(delta.get("content")))
        events += self._write(incoming, "message", "refusal", _text(delta.get("refusal")))
        for call in dicts_in(delta.get("tool_calls")):
            events += self._read_call(incoming, call)
        if reason := str_or(choice.get("finish_reason"), ""):
            self._finish, self._reason = incoming, reason
        return events

    def _write(self, incoming: RawEvent, item: str, kind: str, text: str) -> Events:
        if not text:
            return ()
        if item not in self._items:
            self._items[item] = self.content.add(item, (), None)
        part = self.content.text(self._items[item], kind, "1" if kind == "refusal" else "0")
        return self.content.delta(incoming, part, text)

    def _read_call(self, incoming: RawEvent, fields: dict[str, Any]) -> list[VendorEvent]:
        """Handle a piece of a call."""
        function = dict_in(fields, "function")
        id_, name = str_or(fields.get("id"), ""), str_or(function.get("name"), "")
        args = function.get("arguments")
        more = args if isinstance(args, str) else "" if args is None else dump(args).decode()
        index = index_in(fields, "index")
        item = self._last_call if index is None else self._calls.get(index)
        if item is None or item.call is None or _begins(item.call, id_, name, more):
            item = self.content.add("function", (id_,), None)
        events = self.content.call_started(incoming, item, "", "") if item.call else []
        if item.call is None:
            events = self.content.call_started(incoming, item, id_, name)
        self._calls[index] = self._last_call = item
        if item.call is not None:
            item.call.name = item.call.name or name
            events = [*events, *self.content.args_delta(incoming, item.call, more)]
        return events

    def _close(self, incoming: RawEvent) -> Events:
        """Return the end of an answer whose finish reason is known."""
        error = self._error()
        events: list[VendorEvent] = []
        for item in self.content.items:
            if item.call is not None and error is None:
                item.done = True
                args = item.call.tally.text() or ""
                events += self.content.args_done(incoming, item.call, args)
        return (*events, self.closed(incoming, error, whole=False, usage=self._usage))

    def _error(self) -> ProviderError | None:
        reason = self._reason or ""
        if reason in _INCOMPLETE:
            return VendorIncomplete(_INCOMPLETE[reason], "the answer reached the limit of tokens")
        if reason == "content_filter":
            return VendorIncomplete(reason, "the vendor's filter stopped the answer")
        if reason in ("cancelled", "abort"):
            return VendorCancelled("cancelled", "by the vendor")
        if reason in ("error", "function_call"):
            return VendorFailed(reason, "the vendor ended the answer")
        if reason not in _KNOWN:
            self.unknown[reason[:100]] += 1
        return None


def _begins(call: Call, id_: str, name: str, more: str) -> bool:
    """Return True if a piece with the index of *call* begins another call.

    Only the first piece has a name. Some servers repeat the name, or change the id, in every piece;
    others give every call the same index.
    """
    if not name:
        return False
    other = bool(id_) and id_ != call.vendor_id
    starts = more.lstrip().startswith("{") or not more
    return (other and (name != call.name or starts)) or (starts and bool(more) and call.complete)


def _text(value: Any, type_: str = "text") -> str:
    """Return a text, or the texts of the blocks of *type_* in a list."""
    if isinstance(value, str):
        return value if type_ == "text" else ""
    blocks = [block for block in dicts_in(value) if block.get("type", "text") == type_]
    found = [block.get(type_) for block in blocks]
    return "".join(each if isinstance(each, str) else _text(each) for each in found)


def _object(call: Call) -> str:
    """Return the arguments of *call* as a JSON object; servers refuse anything else in a request."""
    args = call.args or ""
    try:
        return args if isinstance(json.loads(args), dict) else "{}"
    except (ValueError, RecursionError):
        return "{}"


def _dict(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None

"""The Responses API, interpreted: each of its events becomes typed ones; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.providers.failures import (
    StreamUnreadable,
    VendorCancelled,
    VendorIncomplete,
    vendor_failure,
)
from rehydrate.providers.interpreting import (
    Arrived,
    Events,
    Interpreter,
    Rule,
    Tally,
    dict_of,
    dicts_in,
    index_of,
    plain,
    str_or,
    text_of,
)
from rehydrate.providers.responses_items import (
    NO_RESULT,
    ItemCall,
    call_of,
    output_of,
    parts_of,
    texts_of,
)
from rehydrate.providers.vendor_events import (
    Annotation,
    PartDone,
    Progress,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolArgsDelta,
    ToolCallDone,
    ToolCallStarted,
    ToolResult,
    VendorEvent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_DELTAS = {"text": TextDelta, "refusal": RefusalDelta, "reasoning": ReasoningDelta}
_NO_FIELDS: dict[str, Any] = {}
_FLAT = ".delta"
"""Events of which every field that is read is a text or a number."""


class _Item(NamedTuple):
    """What is kept of an output item: nothing that grows with its text."""

    id: str
    kind: str
    call: ItemCall | None


class ResponsesInterpreter(Interpreter):
    """Takes the events of the Responses API.

    Attributes:
        response_id: the vendor's id of the response, once it is known.
    """

    def __init__(
        self, rules: Mapping[str, Rule], *, starting_after: int | None = None, prefix: str = ""
    ) -> None:
        super().__init__(rules, starting_after=starting_after, prefix=prefix)
        self.response_id: str | None = None
        self._items: dict[int, _Item] = {}
        self._tallies: dict[str, Tally] = {}
        self._told: set[str] = set()
        self._answered: set[str] = set()

    def arrived(self, raw: Any) -> Arrived:
        """As `Interpreter.arrived`."""
        if not isinstance(raw, dict):
            fields = getattr(raw, "__dict__", _NO_FIELDS)
            type_ = fields.get("type")
            flat = isinstance(type_, str) and type_.endswith(_FLAT)
            raw = fields if flat else plain(raw)
        if not isinstance(raw, dict) or not isinstance(type_ := raw.get("type"), str):
            raise StreamUnreadable("malformed_event", "an event without a type")
        number = raw.get("sequence_number")
        return Arrived(type_, number if type(number) is int else None, raw)

    def created(self, came: Arrived) -> Events:
        """The response begins, or says how it is."""
        response = dict_of(came, "response")
        new = str_or(response.get("id"), "")
        if self.response_id not in (None, new):
            raise StreamUnreadable("foreign_response", f"{came.type} is of another response")
        if self.response_id is not None or not new:
            return (Progress(came.type, came.number, response),)
        self.response_id = new
        return (Started(came.type, came.number, "response", new),)

    def item_added(self, came: Arrived) -> Events:
        """An output item begins."""
        index = index_of(came, "output_index")
        item = self._note(index, dict_of(came, "item"))
        if item.call is None:
            return (Started(came.type, came.number, "item", item.id),)
        call = item.call
        self._tallies[call.id] = Tally()
        return (ToolCallStarted(came.type, came.number, call.id, call.name, call.kind),)

    def item_done(self, came: Arrived) -> Events:
        """An output item is complete: what its deltas lacked follows, and its tool's answer."""
        index = index_of(came, "output_index")
        return self._complete(came, index, dict_of(came, "item"))

    def delta(self, kind: str, at: str, came: Arrived) -> Events:
        """More text of a part; of message items only, where it is the answer's."""
        key = self._part(came, at)
        if key is None:
            return (Progress(*came),)
        text = text_of(came, "delta")
        tally = self._tally(key)
        if tally.done:
            raise StreamUnreadable("event_out_of_order", f"{came.type} for a part that is done")
        tally.add(text)
        return (_DELTAS[kind](came.type, came.number, key, text),) if text else ()

    def done(self, kind: str, at: str, field: str, came: Arrived) -> Events:
        """All text of a part, as the vendor says at its end."""
        key = self._part(came, at)
        if key is None:
            return (Progress(*came),)
        full = text_of(came, field)
        done = PartDone(came.type, came.number, key, full)
        return (*self._rest(came, kind, key, full), done)

    def args_delta(self, came: Arrived) -> Events:
        """More of a call's arguments."""
        item = self._item(came)
        if item.call is None:
            return (Progress(*came),)
        return self._args(came, item.call.id, text_of(came, "delta"))

    def args_done(self, field: str, came: Arrived) -> Events:
        """All of a call's arguments, as the vendor says at their end."""
        item = self._item(came)
        if item.call is None:
            return (Progress(*came),)
        return self._args_rest(came, item.call, text_of(came, field))

    def command(self, came: Arrived) -> Events:
        """A shell command begins: its call's arguments are one command a line."""
        item = self._item(came)
        at = index_of(came, "command_index")
        text = ("\n" if at else "") + str_or(came.fields.get("command"), "")
        if item.call is None or not text:
            return (Progress(*came),)
        return self._args(came, item.call.id, text)

    def annotation(self, came: Arrived) -> Events:
        """A citation in the text."""
        key = self._part(came, "content_index")
        if key is None:
            return (Progress(*came),)
        return (Annotation(came.type, came.number, key, plain(came.fields.get("annotation"))),)

    def progress(self, came: Arrived) -> Events:
        """A step that adds nothing to the answer."""
        return (Progress(*came),)

    def completed(self, came: Arrived) -> Events:
        """The response is complete: its final text is what counts."""
        return self._terminal(came, dict_of(came, "response"), None)

    def incomplete(self, came: Arrived) -> Events:
        """The response ended early; its text so far counts."""
        response = dict_of(came, "response")
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        error = VendorIncomplete(str_or(reason, "incomplete"))
        return self._terminal(came, response, error)

    def failed(self, came: Arrived) -> Events:
        """The response failed; what was said stays said."""
        response = dict_of(came, "response")
        error = vendor_failure(response.get("error"))
        return (self.ended(came.type, "failed", usage=_usage(response), error=error),)

    def cancelled(self, came: Arrived) -> Events:
        """The response was cancelled at the vendor's."""
        usage = _usage(dict_of(came, "response"))
        error = VendorCancelled("cancelled", "at the vendor's")
        return (self.ended(came.type, "cancelled", usage=usage, error=error),)

    def error(self, came: Arrived) -> Events:
        """The vendor reports an error in mid-stream."""
        nested = came.fields.get("error")
        error = nested if isinstance(nested, dict) else {**came.fields, "type": None}
        return (self.ended(came.type, "failed", error=vendor_failure(error)),)

    def _terminal(
        self,
        came: Arrived,
        response: dict[str, Any],
        error: VendorIncomplete | None,
    ) -> Events:
        if self.response_id not in (None, str_or(response.get("id"), self.response_id or "")):
            raise StreamUnreadable("foreign_response", f"{came.type} is of another response")
        items = dicts_in(response.get("output"))
        events: list[VendorEvent] = []
        for index, item in enumerate(items):
            events += self._complete(came, index, item)
        if not items and self.missing and error is None:
            error = VendorIncomplete("events_missing", "sequence numbers were left out")
        status = "completed" if error is None else error.ending
        parts = parts_of(items, prefix=self.prefix) if items else None
        self.amended = self.amended or self.missing
        usage = _usage(response)
        end = self.ended(
            came.type, status, usage=usage, error=error, parts=parts, items=tuple(items)
        )
        return (*events, end)

    def _complete(self, came: Arrived, index: int, fields: dict[str, Any]) -> Events:
        """What of an item, as it is at its end, has not been said yet."""
        events: list[VendorEvent] = []
        known = self._items.get(index)
        if known is None:
            known = self._note(index, fields)
            if (call := known.call) is not None and call.id not in self._tallies:
                events.append(
                    ToolCallStarted(came.type, came.number, call.id, call.name, call.kind)
                )
            if self._joined_late:
                for text in texts_of(fields, index=index, prefix=self.prefix):
                    self._tallies.setdefault(text.key, Tally(whole=False))
        for text in texts_of(fields, index=index, prefix=self.prefix):
            events += self._rest(came, text.type, text.key, text.text)
        if (call_now := call_of(fields, index=index)) is not None:
            events += self._args_rest(came, call_now, call_now.args)
            if call_now.result is not NO_RESULT:
                answered = (call_now.id, call_now.name, call_now.result, call_now.failed)
                events += self._result(came, *answered)
        elif (output := output_of(fields, index=index)) is not None:
            events += self._result(came, *output)
        return events

    def _note(self, index: int, fields: dict[str, Any]) -> _Item:
        call = call_of(fields, index=index)
        kind = str_or(fields.get("type"), "")
        item = _Item(str_or(fields.get("id"), ""), kind, call)
        self._items[index] = item
        if not kind:
            raise StreamUnreadable("malformed_event", f"item {index} has no type")
        return item

    def _item(self, came: Arrived) -> _Item:
        index = index_of(came, "output_index")
        item = self._items.get(index)
        if item is None and self._joined_late:
            # it began before this reader came: a text is what it says, a call is told at its end
            return _Item("", came.type, None)
        said_id = came.fields.get("item_id")
        if item is None or (said_id and item.id and said_id != item.id):
            raise StreamUnreadable("unknown_item", f"{came.type} for output {index}")
        return item

    def _part(self, came: Arrived, at: str) -> str | None:
        """The key of the part that an event is about; None if it is about none."""
        item = self._item(came)
        wanted = "reasoning" if "reasoning" in came.type else "message"
        if item.kind not in (wanted, came.type):
            return None
        letter = "s" if at == "summary_index" else ""
        key = f"{self.prefix}{came.fields['output_index']}.{letter}{index_of(came, at)}"
        if item.kind == came.type:
            self._tallies.setdefault(key, Tally(whole=False))
        return key

    def _tally(self, key: str) -> Tally:
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def _rest(self, came: Arrived, kind: str, key: str, full: str) -> Events:
        tally = self._tally(key)
        rest = tally.rest(full)
        tally.done = True
        if rest is None:
            self.amended = True
        if not rest:
            return ()
        tally.add(rest)
        return (_DELTAS[kind](came.type, came.number, key, rest),)

    def _args(self, came: Arrived, call_id: str, text: str) -> Events:
        self._tally(call_id).add(text)
        return (ToolArgsDelta(came.type, came.number, call_id, text),) if text else ()

    def _args_rest(self, came: Arrived, call: ItemCall, full: str) -> Events:
        """What of a call's arguments has not been said yet, and, once, that they are complete."""
        rest = self._tallies.setdefault(call.id, Tally()).rest(full)
        if rest is None:
            self.amended = True
        more = self._args(came, call.id, rest or "")
        if call.id in self._told:
            return more
        self._told.add(call.id)
        done = ToolCallDone(came.type, came.number, call.id, call.name, call.kind, full)
        return (*more, done)

    def _result(self, came: Arrived, call_id: str, name: str, result: Any, failed: bool) -> Events:
        if call_id in self._answered:
            return ()
        self._answered.add(call_id)
        return (ToolResult(came.type, came.number, call_id, name, result, failed),)


def _usage(response: dict[str, Any]) -> dict[str, Any] | None:
    usage = response.get("usage")
    return usage if isinstance(usage, dict) else None

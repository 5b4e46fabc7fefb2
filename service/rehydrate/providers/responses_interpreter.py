"""Translate events of the Responses API into typed events, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.providers.failures import (
    StreamUnreadable,
    VendorCancelled,
    VendorIncomplete,
    vendor_failure,
)
from rehydrate.providers.interpreting import (
    Events,
    Interpreter,
    RawEvent,
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
"""Suffix of event types whose fields are only strings and numbers, so no conversion is needed."""


class _Item(NamedTuple):
    """The state of an output item. It does not grow with the item's text."""

    id: str
    kind: str
    call: ItemCall | None


class ResponsesInterpreter(Interpreter):
    """Interprets the events of the Responses API.

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
        self._completed_calls: set[str] = set()
        self._calls_with_result: set[str] = set()

    def parse(self, raw: Any) -> RawEvent:
        """Parse an event of the vendor; see `Interpreter.parse`."""
        if not isinstance(raw, dict):
            fields = getattr(raw, "__dict__", _NO_FIELDS)
            type_ = fields.get("type")
            flat = isinstance(type_, str) and type_.endswith(_FLAT)
            raw = fields if flat else plain(raw)
        if not isinstance(raw, dict) or not isinstance(type_ := raw.get("type"), str):
            raise StreamUnreadable("malformed_event", "an event without a type")
        number = raw.get("sequence_number")
        return RawEvent(type_, number if type(number) is int else None, raw)

    def created(self, incoming: RawEvent) -> Events:
        """Handle the start or a change of state of the response."""
        response = dict_of(incoming, "response")
        new = str_or(response.get("id"), "")
        if self.response_id not in (None, new):
            raise StreamUnreadable(
                "foreign_response", f"{incoming.type} belongs to another response"
            )
        if self.response_id is not None or not new:
            return (Progress(incoming.type, incoming.number, response),)
        self.response_id = new
        return (Started(incoming.type, incoming.number, "response", new),)

    def item_added(self, incoming: RawEvent) -> Events:
        """Handle the start of an output item."""
        index = index_of(incoming, "output_index")
        item = self._add_item(index, dict_of(incoming, "item"))
        if item.call is None:
            return (Started(incoming.type, incoming.number, "item", item.id),)
        call = item.call
        self._tallies[call.id] = Tally()
        return (ToolCallStarted(incoming.type, incoming.number, call.id, call.name, call.kind),)

    def item_done(self, incoming: RawEvent) -> Events:
        """Handle a complete output item: emit missing deltas and the result of its tool."""
        index = index_of(incoming, "output_index")
        return self._complete(incoming, index, dict_of(incoming, "item"))

    def delta(self, kind: str, at: str, incoming: RawEvent) -> Events:
        """Handle more text of a part, if its item belongs to the answer."""
        key = self._part(incoming, at)
        if key is None:
            return (Progress(*incoming),)
        text = text_of(incoming, "delta")
        tally = self._tally(key)
        if tally.done:
            raise StreamUnreadable("event_out_of_order", f"{incoming.type} for a part that is done")
        tally.add(text)
        return (_DELTAS[kind](incoming.type, incoming.number, key, text),) if text else ()

    def done(self, kind: str, at: str, field: str, incoming: RawEvent) -> Events:
        """Handle the end of a part, with its complete text."""
        key = self._part(incoming, at)
        if key is None:
            return (Progress(*incoming),)
        full = text_of(incoming, field)
        done = PartDone(incoming.type, incoming.number, key, full)
        return (*self._rest(incoming, kind, key, full), done)

    def args_delta(self, incoming: RawEvent) -> Events:
        """Handle more arguments of a call."""
        item = self._item(incoming)
        if item.call is None:
            return (Progress(*incoming),)
        return self._args(incoming, item.call.id, text_of(incoming, "delta"))

    def args_done(self, field: str, incoming: RawEvent) -> Events:
        """Handle the end of a call's arguments, with all of them."""
        item = self._item(incoming)
        if item.call is None:
            return (Progress(*incoming),)
        return self._args_rest(incoming, item.call, text_of(incoming, field))

    def command(self, incoming: RawEvent) -> Events:
        """Handle the start of a shell command; a call's arguments are one command per line."""
        item = self._item(incoming)
        at = index_of(incoming, "command_index")
        text = ("\n" if at else "") + str_or(incoming.fields.get("command"), "")
        if item.call is None or not text:
            return (Progress(*incoming),)
        return self._args(incoming, item.call.id, text)

    def annotation(self, incoming: RawEvent) -> Events:
        """Handle a citation in the text."""
        key = self._part(incoming, "content_index")
        if key is None:
            return (Progress(*incoming),)
        return (
            Annotation(
                incoming.type, incoming.number, key, plain(incoming.fields.get("annotation"))
            ),
        )

    def progress(self, incoming: RawEvent) -> Events:
        """Handle an event that adds nothing to the answer."""
        return (Progress(*incoming),)

    def completed(self, incoming: RawEvent) -> Events:
        """Handle a completed response, whose final text replaces the deltas."""
        return self._terminal(incoming, dict_of(incoming, "response"), None)

    def incomplete(self, incoming: RawEvent) -> Events:
        """Handle a response that ended early, with its text so far."""
        response = dict_of(incoming, "response")
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        error = VendorIncomplete(str_or(reason, "incomplete"))
        return self._terminal(incoming, response, error)

    def failed(self, incoming: RawEvent) -> Events:
        """Handle a failed response; the content so far is kept."""
        response = dict_of(incoming, "response")
        error = vendor_failure(response.get("error"))
        return (self.ended(incoming.type, "failed", usage=_usage(response), error=error),)

    def cancelled(self, incoming: RawEvent) -> Events:
        """Handle a response that was cancelled by the vendor."""
        usage = _usage(dict_of(incoming, "response"))
        error = VendorCancelled("cancelled", "by the vendor")
        return (self.ended(incoming.type, "cancelled", usage=usage, error=error),)

    def error(self, incoming: RawEvent) -> Events:
        """Handle an error that the vendor reports within the stream."""
        nested = incoming.fields.get("error")
        error = nested if isinstance(nested, dict) else {**incoming.fields, "type": None}
        return (self.ended(incoming.type, "failed", error=vendor_failure(error)),)

    def _terminal(
        self,
        incoming: RawEvent,
        response: dict[str, Any],
        error: VendorIncomplete | None,
    ) -> Events:
        if self.response_id not in (None, str_or(response.get("id"), self.response_id or "")):
            raise StreamUnreadable(
                "foreign_response", f"{incoming.type} belongs to another response"
            )
        items = dicts_in(response.get("output"))
        events: list[VendorEvent] = []
        for index, item in enumerate(items):
            events += self._complete(incoming, index, item)
        if not items and self.missing and error is None:
            error = VendorIncomplete("events_missing", "sequence numbers were skipped")
        status = "completed" if error is None else error.ending
        parts = parts_of(items, prefix=self.prefix) if items else None
        self.amended = self.amended or self.missing
        usage = _usage(response)
        end = self.ended(
            incoming.type, status, usage=usage, error=error, parts=parts, items=tuple(items)
        )
        return (*events, end)

    def _complete(self, incoming: RawEvent, index: int, fields: dict[str, Any]) -> Events:
        """Emit what the deltas of a complete item lacked."""
        events: list[VendorEvent] = []
        known = self._items.get(index)
        if known is None:
            known = self._add_item(index, fields)
            if (call := known.call) is not None and call.id not in self._tallies:
                events.append(
                    ToolCallStarted(incoming.type, incoming.number, call.id, call.name, call.kind)
                )
            if self._joined_late:
                for text in texts_of(fields, index=index, prefix=self.prefix):
                    self._tallies.setdefault(text.key, Tally(whole=False))
        for text in texts_of(fields, index=index, prefix=self.prefix):
            events += self._rest(incoming, text.type, text.key, text.text)
        if (call_now := call_of(fields, index=index)) is not None:
            events += self._args_rest(incoming, call_now, call_now.args)
            if call_now.result is not NO_RESULT:
                answered = (call_now.id, call_now.name, call_now.result, call_now.failed)
                events += self._result(incoming, *answered)
        elif (output := output_of(fields, index=index)) is not None:
            events += self._result(incoming, *output)
        return events

    def _add_item(self, index: int, fields: dict[str, Any]) -> _Item:
        call = call_of(fields, index=index)
        kind = str_or(fields.get("type"), "")
        item = _Item(str_or(fields.get("id"), ""), kind, call)
        self._items[index] = item
        if not kind:
            raise StreamUnreadable("malformed_event", f"item {index} has no type")
        return item

    def _item(self, incoming: RawEvent) -> _Item:
        index = index_of(incoming, "output_index")
        item = self._items.get(index)
        if item is None and self._joined_late:
            # The item began before this stream. Pass its text on; emit a call when it is complete.
            return _Item("", incoming.type, None)
        item_id = incoming.fields.get("item_id")
        if item is None or (item_id and item.id and item_id != item.id):
            raise StreamUnreadable("unknown_item", f"{incoming.type} for output {index}")
        return item

    def _part(self, incoming: RawEvent, at: str) -> str | None:
        """Return the key of the part that an event changes, or None."""
        item = self._item(incoming)
        wanted = "reasoning" if "reasoning" in incoming.type else "message"
        if item.kind not in (wanted, incoming.type):
            return None
        letter = "s" if at == "summary_index" else ""
        key = f"{self.prefix}{incoming.fields['output_index']}.{letter}{index_of(incoming, at)}"
        if item.kind == incoming.type:
            self._tallies.setdefault(key, Tally(whole=False))
        return key

    def _tally(self, key: str) -> Tally:
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def _rest(self, incoming: RawEvent, kind: str, key: str, full: str) -> Events:
        tally = self._tally(key)
        rest = tally.rest(full)
        tally.done = True
        if rest is None:
            self.amended = True
        if not rest:
            return ()
        tally.add(rest)
        return (_DELTAS[kind](incoming.type, incoming.number, key, rest),)

    def _args(self, incoming: RawEvent, call_id: str, text: str) -> Events:
        self._tally(call_id).add(text)
        return (ToolArgsDelta(incoming.type, incoming.number, call_id, text),) if text else ()

    def _args_rest(self, incoming: RawEvent, call: ItemCall, full: str) -> Events:
        """Emit what the deltas of a call's arguments lacked, and once that they are complete."""
        rest = self._tallies.setdefault(call.id, Tally()).rest(full)
        if rest is None:
            self.amended = True
        more = self._args(incoming, call.id, rest or "")
        if call.id in self._completed_calls:
            return more
        self._completed_calls.add(call.id)
        done = ToolCallDone(incoming.type, incoming.number, call.id, call.name, call.kind, full)
        return (*more, done)

    def _result(
        self, incoming: RawEvent, call_id: str, name: str, result: Any, failed: bool
    ) -> Events:
        if call_id in self._calls_with_result:
            return ()
        self._calls_with_result.add(call_id)
        return (ToolResult(incoming.type, incoming.number, call_id, name, result, failed),)


def _usage(response: dict[str, Any]) -> dict[str, Any] | None:
    usage = response.get("usage")
    return usage if isinstance(usage, dict) else None

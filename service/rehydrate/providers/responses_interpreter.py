"""Translate events of the Responses API into typed events, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.failures import (
    ProviderError,
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
    dict_in,
    dict_of,
    dicts_in,
    index_in,
    plain,
    str_or,
    text_of,
)
from rehydrate.providers.responses_items import final_of
from rehydrate.providers.vendor_events import Progress, Started

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehydrate.providers.answer_items import Call, Item, Text

_NO_FIELDS: dict[str, Any] = {}
_FLAT = ".delta"
"""Suffix of event types whose fields are only strings and numbers, so no conversion is needed."""


class ResponsesInterpreter(Interpreter):
    """Interprets the events of the Responses API.

    Attributes:
        response_id: the vendor's newest id of the response, once it is known.
    """

    runnable = frozenset({"function_call", "custom_tool_call"})

    def __init__(
        self, rules: Mapping[str, Rule], *, starting_after: int | None = None, prefix: str = ""
    ) -> None:
        super().__init__(rules, starting_after=starting_after, prefix=prefix)
        self.response_id: str | None = None
        self._created = False
        self._last_place: tuple[Any, ...] = ()
        self._last_text: Text | None = None

    def parse(self, raw: Any) -> RawEvent:
        """Parse an event of the vendor; see `Interpreter.parse`."""
        if not isinstance(raw, dict):
            if isinstance(raw, StreamUnreadable):
                raise raw
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
        again = self._created and incoming.type == "response.created"
        self._created = self._created or incoming.type == "response.created"
        if again and self.content.items:
            if str_or(response.get("id"), "") != self.response_id:
                foreign = f"{incoming.type} begins another response"
                return self.fail(StreamUnreadable("foreign_response", foreign))
            self.set_aside(VendorIncomplete("events_missing", "the answer began again"))
            self.content.repeat()
        return self._named(incoming, response) or (Progress(*incoming),)

    def item_added(self, incoming: RawEvent) -> Events:
        """Handle the start of an output item."""
        self._last_place = ()
        fields = dict_of(incoming, "item")
        final = final_of(fields, index_in(incoming.fields, "output_index"))
        if final is None:
            raise StreamUnreadable("malformed_event", "an item without a type")
        item = self.content.announced(final)
        if item is None:
            item = self.content.add(final.kind, final.ids, final.at)
        item.announced = True
        self.content.name(item, final.ids)
        if final.call is None:
            return (Started(incoming.type, incoming.number, "item", final.id),)
        call = final.call
        return self.content.call_started(incoming, item, call.id, call.name) or (
            Progress(*incoming),
        )

    def item_done(self, incoming: RawEvent) -> Events:
        """Handle a complete output item: emit missing deltas and the result of its tool."""
        self._last_place = ()
        fields = dict_of(incoming, "item")
        final = final_of(fields, index_in(incoming.fields, "output_index"))
        if final is None:
            raise StreamUnreadable("malformed_event", "an item without a type")
        return self.content.item_done(incoming, final)

    def delta(self, kind: str, at: str, incoming: RawEvent) -> Events:
        """Handle more text of a part, if its item belongs to the answer."""
        fields = incoming.fields
        place = (incoming.type, fields.get("item_id"), fields.get("output_index"), fields.get(at))
        if place != self._last_place:
            self._last_text = self._text(kind, at, incoming)
            self._last_place = place
        if self._last_text is None:
            return (Progress(*incoming),)
        return self.content.delta(incoming, self._last_text, text_of(incoming, "delta"))

    def done(self, kind: str, at: str, field: str, incoming: RawEvent) -> Events:
        """Handle the end of a part, with its complete text."""
        self._last_place = ()
        full, item = text_of(incoming, field), self._item(kind, incoming)
        text = None
        if item is not None:
            text = self.content.whole_text(item, kind, _place(incoming, at), full)
        if item is None or text is None or text.tally.done:
            return (Progress(*incoming),)
        if not text.tally.length and not self._names(incoming, item):
            return (Progress(*incoming),)  # it may belong to another item, which will follow whole
        return self.content.text_done(incoming, text, full)

    def args_delta(self, kind: str, incoming: RawEvent) -> Events:
        """Handle more arguments of a call."""
        return self._args(kind, incoming, text_of(incoming, "delta"))

    def args_done(self, kind: str, field: str, incoming: RawEvent) -> Events:
        """Handle the end of a call's arguments, with all of them."""
        args = incoming.fields.get(field)
        if args is None:  # the whole item has them
            return (Progress(*incoming),)
        full, call = text_of(incoming, field), self._call(kind, incoming)
        if call is None or call.args is not None:
            return (Progress(*incoming),)
        return self.content.args_done(incoming, call, full)

    def command(self, incoming: RawEvent) -> Events:
        """Handle the start of a shell command; a call's arguments are one command per line."""
        at = index_in(incoming.fields, "command_index")
        text = ("\n" if at else "") + str_or(incoming.fields.get("command"), "")
        return self._args("shell_call", incoming, text)

    def annotation(self, incoming: RawEvent) -> Events:
        """Handle a citation in the text."""
        text = self._text("text", "content_index", incoming)
        annotation = dict_of(incoming, "annotation")
        if text is None:
            return (Progress(*incoming),)
        return self.content.annotate(incoming, text, [annotation])

    def progress(self, incoming: RawEvent) -> Events:
        """Handle an event that adds nothing to the answer."""
        return (Progress(*incoming),)

    def completed(self, incoming: RawEvent) -> Events:
        """Handle a completed response, whose final text replaces the deltas."""
        return self._terminal(incoming, dict_in(incoming.fields, "response"), None)

    def incomplete(self, incoming: RawEvent) -> Events:
        """Handle a response that ended early, with its text so far."""
        response = dict_in(incoming.fields, "response")
        reason = dict_in(response, "incomplete_details").get("reason")
        return self._terminal(incoming, response, VendorIncomplete(str_or(reason, "incomplete")))

    def failed(self, incoming: RawEvent) -> Events:
        """Handle a failed response; the content so far is kept."""
        response = dict_in(incoming.fields, "response")
        error = vendor_failure(response.get("error"))
        usage = response.get("usage")
        return (self.ended(incoming.type, "failed", usage=_dict(usage), error=error),)

    def cancelled(self, incoming: RawEvent) -> Events:
        """Handle a response that was cancelled by the vendor."""
        usage = dict_in(incoming.fields, "response").get("usage")
        error = VendorCancelled("cancelled", "by the vendor")
        return (self.ended(incoming.type, "cancelled", usage=_dict(usage), error=error),)

    def error(self, incoming: RawEvent) -> Events:
        """Handle an error that the vendor reports within the stream."""
        nested = incoming.fields.get("error")
        error = nested if isinstance(nested, dict) else {**incoming.fields, "type": None}
        return (self.ended(incoming.type, "failed", error=vendor_failure(error)),)

    def _terminal(
        self, incoming: RawEvent, response: dict[str, Any], error: ProviderError | None
    ) -> Events:
        started = self._named(incoming, response)
        items = dicts_in(response.get("output"))
        found = [final_of(item, index) for index, item in enumerate(items)]
        finals = [final for final in found if final is not None]
        behind = self._replayed_to is not None and self.numbered
        behind = behind and self.sequence_number == self._replayed_to
        if not finals and behind and incoming.number is not None and error is None:
            error = VendorIncomplete("events_missing", "the vendor's numbers began again")
        events = self.content.settle(incoming, finals) if finals else []
        whole, usage = bool(finals), response.get("usage")
        end = self.closed(incoming, error, whole=whole, usage=usage, items=self._for_input())
        return (*started, *events, end)

    def _for_input(self) -> list[dict[str, Any]]:
        """Return the whole items as the next request may need them, each call with its id."""
        items = []
        for item in self.content.items:
            if item.raw is not None and item.call is not None and item.kind in self.runnable:
                items.append({**item.raw, "call_id": item.call.vendor_id})
            elif item.raw is not None:
                items.append(item.raw)
        return items

    def _named(self, incoming: RawEvent, response: dict[str, Any]) -> Events:
        """Take over the id of the response, which gateways may change."""
        new = str_or(response.get("id"), "")
        if not new or new == self.response_id:
            return ()
        self.response_id = new
        return (Started(incoming.type, incoming.number, "response", new),)

    def _text(self, kind: str, at: str, incoming: RawEvent) -> Text | None:
        """Return the text that an event changes; None if its item is not part of the answer."""
        item = self._item(kind, incoming)
        return None if item is None else self.content.text(item, kind, _place(incoming, at))

    def _item(self, kind: str, incoming: RawEvent) -> Item | None:
        """Return the item with the text that an event changes; a delta may come first."""
        wanted = "reasoning" if kind == "reasoning" else "message"
        id_ = str_or(incoming.fields.get("item_id"), "")
        index = index_in(incoming.fields, "output_index")
        item = self.content.find(wanted, id_, index)
        if item is None and not self.content.has(id_):
            item = self.content.add(wanted, (id_,), index)
        return item

    @staticmethod
    def _names(incoming: RawEvent, item: Item) -> bool:
        """Return True if an event has the id or the index of *item*, or neither."""
        id_ = str_or(incoming.fields.get("item_id"), "")
        index = index_in(incoming.fields, "output_index")
        return id_ in item.ids or index == item.index or (not id_ and index is None)

    def _args(self, kind: str, incoming: RawEvent, more: str) -> Events:
        call = self._call(kind, incoming)
        if call is None:
            return (Progress(*incoming),)
        return self.content.args_delta(incoming, call, more)

    def _call(self, kind: str, incoming: RawEvent) -> Call | None:
        """Return the call that an event changes; None if it was not announced: it will follow whole."""
        id_ = str_or(incoming.fields.get("item_id"), "")
        item = self.content.find(kind, id_, index_in(incoming.fields, "output_index"))
        return None if item is None else item.call


def _place(incoming: RawEvent, at: str) -> str | None:
    """Return the place of a text in its item, or None if the event does not contain it."""
    index = index_in(incoming.fields, at)
    letter = "s" if at == "summary_index" else ""
    return None if index is None else f"{letter}{index}"


def _dict(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None

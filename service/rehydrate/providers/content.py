"""The content of an answer while it streams: which item an event changes, and what is published.

Vendors identify an item by an id and an index, and repeat the complete item at its end and at the
end of the answer. Gateways change, repeat or omit any of these, so each is only evidence:

* A delta belongs to the item that matches both its id and its index, else to the one that matches
  its id, else to the one at its index, else to the newest item that is not done.
* A whole item (`Final`) is paired with the streamed item that fits it best: by its id, equal
  content, its index, a common prefix, its order. Only content that the streamed item lacks is
  published.
* If a whole text contradicts the deltas, none of it is published again: `parts` is the correct
  content, which replaces the content that readers have.

Therefore no text is published twice, and a call that was announced under one id and completed under
another is one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.answer_items import CONTRADICTS, Call, Item, Tally, Text
from rehydrate.providers.pairing import (
    apart,
    equal,
    pair,
    rank_of_item,
    rank_of_next,
    rank_of_text,
    repeats,
)
from rehydrate.providers.vendor_events import (
    Annotation,
    PartDone,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolArgsDelta,
    ToolCallDone,
    ToolCallStarted,
    ToolResult,
    VendorEvent,
    label,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rehydrate.providers.answer_items import Final
    from rehydrate.providers.interpreting import RawEvent

_DELTAS = {"text": TextDelta, "refusal": RefusalDelta, "reasoning": ReasoningDelta}
_WITH_TEXTS = ("message", "reasoning")


class Content:
    """The items of one answer, or of one turn of it.

    Args:
        prefix: the prefix of part keys and of the ids of calls.
        joined_late: items may have begun before this stream.

    Attributes:
        items: all items, in the order in which they appeared.
        amended: something that the vendor sent whole contradicts what it streamed.
    """

    def __init__(self, prefix: str = "", *, joined_late: bool = False) -> None:
        self.prefix = prefix
        self.items: list[Item] = []
        self.amended = False
        self._joined_late = joined_late
        self._earlier: list[Item] = []
        self._began = 0
        self._resorted = False
        self._ordinals: set[tuple[bool, int]] = set()
        self._call_ids: set[str] = set()
        self._by_id: dict[str, list[Item]] = {}
        self._by_index: dict[int, list[Item]] = {}

    @property
    def size(self) -> int:
        """The number of items, texts and results so far."""
        items = (*self._earlier, *self.items)
        return sum(1 + len(item.texts) + item.done for item in items)

    def begin_turn(self, prefix: str) -> None:
        """Continue with another turn, whose ids may repeat those of the earlier ones."""
        self.prefix = prefix
        self._earlier += self.items
        self.items = []
        self._by_id, self._by_index = {}, {}

    def find(self, kind: str, id_: str, index: int | None) -> Item | None:
        """Return the item of *kind* that an event changes, or None if it is a new one."""
        named = [item for item in self._by_id.get(id_, ()) if item.kind == kind]
        placed = [] if index is None else self._by_index.get(index, [])
        placed = [item for item in placed if item.kind == kind]
        if both := [item for item in named if item in placed]:
            return _newest(both)
        if len(named) == 1 and not (named[0].done and index is not None and not placed):
            return named[0]
        if placed or named:
            found = _newest(placed or named)
            return None if found.done and not placed else found
        streaming = [item for item in self.items if item.kind == kind and not item.done]
        if id_ and index is not None:
            only = len(streaming) == 1 and streaming[0].announced and not self._joined_late
            return streaming[0] if only else None
        if not streaming:
            return None
        return streaming[-1]

    def announced(self, final: Final) -> Item | None:
        """Return the item that an announcement repeats, or that began before it; None if it is new."""
        for item in reversed(self.items):
            if item.kind != final.kind or apart(final.at, item.index):
                continue
            named = any(id_ in item.ids for id_ in final.ids)
            if item.done:  # the announcement is late, unless the vendor has one id for all
                late = named or not any(final.ids) or not item.announced
                if late and final.at is not None and item.index is not None:
                    return item
            elif final.call is not None and item.call is not None:
                if final.call.id == item.call.vendor_id and final.call.name == item.call.name:
                    return item
            elif named or not item.ids:
                return item
        return None

    def has(self, id_: str) -> bool:
        """Return True if there is an item with this id, of any kind."""
        return id_ in self._by_id

    def add(self, kind: str, ids: Iterable[str], index: int | None) -> Item:
        """Add an item."""
        texts, ordinal = kind in _WITH_TEXTS, index
        if ordinal is None or (texts, ordinal) in self._ordinals:
            ordinal = max((n for of, n in self._ordinals if of == texts), default=-1) + 1
        self._ordinals.add((texts, ordinal))
        item = Item(ordinal, kind, (), index)
        item.late = self._joined_late
        self.items.append(item)
        if index is not None:
            self._by_index.setdefault(index, []).append(item)
        self.name(item, ids)
        return item

    def name(self, item: Item, ids: Iterable[str]) -> None:
        """Add ids under which the vendor mentions *item*."""
        for id_ in ids:
            if id_ and id_ not in item.ids:
                item.ids.add(id_)
                self._by_id.setdefault(id_, []).append(item)

    def text(self, item: Item, kind: str, place: str | None) -> Text:
        """Return the text of *item* at *place*; without a place, the one that is streaming."""
        if place is None:
            open_ = [t for t in item.texts.values() if t.kind == kind and not t.tally.done]
            if open_:
                return open_[-1]
        found = None if place is None else item.texts.get(place)
        if found is not None and found.kind == kind:
            return found
        same = [text for text in item.texts.values() if text.kind == kind]
        if item.done and same:
            return same[-1]  # the item is whole: there are no further texts
        if place is None or found is not None:
            place = _free(place or "0", item.texts)
        key = f"{self.prefix}{item.ordinal}.{place}"
        text = item.texts[place] = Text(kind, key, place, Tally(whole=not item.late))
        return text

    def whole_text(self, item: Item, kind: str, place: str | None, full: str) -> Text | None:
        """Return the text of *item* that *full* completes, or None if several may match."""
        same = [text for text in item.texts.values() if text.kind == kind]
        streaming = [text for text in same if text.tally.length and not text.tally.done]
        if any(text.place != place for text in streaming):
            only = len(streaming) == 1 and streaming[0].compared(full) != CONTRADICTS
            return streaming[0] if only and place not in item.texts else None
        return self.text(item, kind, place)

    def delta(self, incoming: RawEvent, text: Text, more: str) -> Sequence[VendorEvent]:
        """Publish *more* of a text. After the end of the text it is ignored: the whole text has it."""
        if text.tally.done:
            self.amended = True
            return ()
        more = text.tally.add(more)
        if text.began is None and more:
            self._begin(text)
        return (_DELTAS[text.kind](incoming.type, incoming.number, text.key, more),) if more else ()

    def text_done(self, incoming: RawEvent, text: Text, full: str) -> list[VendorEvent]:
        """Take over the whole text; publish what the deltas lacked."""
        events: list[VendorEvent] = []
        rest = text.tally.rest(full)
        repeated = text.tally.done and text.final == full
        self.amended = self.amended or rest is None or (bool(rest) and text.tally.done)
        if rest and not self.amended:
            text.tally.add(rest)
            self._begin(text)
            events.append(_DELTAS[text.kind](incoming.type, incoming.number, text.key, rest))
        text.final, text.tally.done, text.tally.skipped = full, True, 0
        if not repeated:
            events.append(PartDone(incoming.type, incoming.number, text.key, full))
        return events

    def annotate(
        self, incoming: RawEvent, text: Text, annotations: Iterable[Any]
    ) -> list[VendorEvent]:
        """Publish the annotations that *text* lacks."""
        new = [each for each in annotations if each not in text.annotations]
        text.annotations += new
        return [Annotation(incoming.type, incoming.number, text.key, each) for each in new]

    def call_started(
        self, incoming: RawEvent, item: Item, id_: str, name: str
    ) -> list[VendorEvent]:
        """Publish the beginning of a call, once; keep its newest id."""
        call = item.call
        if call is None:
            shown = self._call_id(id_ or next(iter(sorted(item.ids)), ""), item)
            call = item.call = Call(shown, id_ or shown, name, item.kind)
            self.name(item, (id_,))
            self._begin(call)
            return [ToolCallStarted(incoming.type, incoming.number, call.id, name, item.kind)]
        call.vendor_id = id_ or call.vendor_id
        call.name = name or call.name
        self.name(item, (id_,))
        return []

    def args_delta(self, incoming: RawEvent, call: Call, more: str) -> Sequence[VendorEvent]:
        """Publish more of a call's arguments."""
        if call.args is not None:
            self.amended = True
            return ()
        more = call.tally.add(more)
        return (ToolArgsDelta(incoming.type, incoming.number, call.id, more),) if more else ()

    def args_done(self, incoming: RawEvent, call: Call, full: str) -> list[VendorEvent]:
        """Take over the whole arguments: publish what the deltas lacked and, once, the completion."""
        events: list[VendorEvent] = []
        rest, first = call.tally.rest(full), call.args is None
        self.amended = self.amended or rest is None or (bool(rest) and not first)
        if rest and not self.amended:
            call.tally.add(rest)
            events.append(ToolArgsDelta(incoming.type, incoming.number, call.id, rest))
        call.args, call.tally.done, call.tally.skipped = full, True, 0
        if first:
            events.append(call.done(incoming))
        return events

    def result(
        self, incoming: RawEvent, call: Call, result: Any, *, failed: bool = False
    ) -> list[VendorEvent]:
        """Publish the result of a call, once."""
        if call.has_result:
            return []
        call.result, call.failed, call.has_result = result, failed, True
        return [ToolResult(incoming.type, incoming.number, call.id, call.name, result, failed)]

    def call_with(self, vendor_id: str) -> Call | None:
        """Return the newest call with that id."""
        calls = [item.call for item in self._by_id.get(vendor_id, ()) if item.call is not None]
        return calls[-1] if calls else None

    def add_image(self, part: str, image: dict[str, Any]) -> None:
        """Add an image, which is published as a completed call of ``image``."""
        item = self.add("image", (part,), None)
        item.done = True
        item.call = Call(part, part, "image", "image")
        item.call.args, item.call.result, item.call.has_result = "", image, True
        self._begin(item.call)

    def all_calls(self) -> list[Item]:
        """Return the calls of all turns, the newest first."""
        items = (*self._earlier, *self.items)
        return [item for item in reversed(items) if item.call is not None]

    def item_done(self, incoming: RawEvent, final: Final) -> list[VendorEvent]:
        """Take over a whole item: pair it with the one that was streamed, or add it."""
        same = [item for item in self.items if item.kind == final.kind]
        found = next((item for item in same if item.done and repeats(final, item)), None)
        if found is None:
            paired = pair([final], [item for item in same if not item.done], rank_of_next)
            found = paired[0] if paired else self.add(final.kind, final.ids, final.at)
        return self.take_over(incoming, found, final)

    def settle(self, incoming: RawEvent, finals: Sequence[Final]) -> list[VendorEvent]:
        """Take over the whole output of the answer.

        Items that the output lacks are dropped, unless the vendor has sent them whole before, or
        the output has none of their kind.
        """
        kinds = {final.kind for final in finals}
        paired: dict[int, Item] = {}
        for kind in kinds:
            at = [n for n, final in enumerate(finals) if final.kind == kind]
            items = [item for item in self.items if item.kind == kind]
            some = [finals[n] for n in at]
            paired |= {at[n]: item for n, item in pair(some, items, rank_of_item).items()}
        matched = {id(item) for item in paired.values()}
        left = [item for item in self.items if id(item) not in matched and item.kind in kinds]
        dropped = [item for item in left if not item.done or any(equal(f, item) for f in finals)]
        self.amended = self.amended or bool(dropped)
        self.items = [item for item in self.items if item not in dropped]
        events: list[VendorEvent] = []
        order: list[Item] = []
        for n, final in enumerate(finals):
            order.append(paired.get(n) or self.add(final.kind, final.ids, final.at))
            events += self.take_over(incoming, order[-1], final)
        self._sort(order)
        return events

    def calls(self, incoming: RawEvent, kinds: frozenset[str]) -> list[ToolCallDone]:
        """Return the complete calls of *kinds*; if the vendor has sent some whole, drop the others."""
        calls = [item for item in self.items if item.call is not None and item.kind in kinds]
        done = {_content(item) for item in calls if item.done}
        extra = [
            item
            for item in calls
            if done
            and not item.done
            and (item.call is None or item.call.args is None or _content(item) in done)
        ]
        self.amended = self.amended or bool(extra)
        self.items = [item for item in self.items if item not in extra]
        return [
            item.call.done(incoming)
            for item in self.items
            if item in calls and item.call is not None and item.call.complete
        ]

    def unfinished(self, kinds: frozenset[str]) -> bool:
        """Return True if a call of *kinds* has incomplete arguments."""
        calls = [item.call for item in self.items if item.call is not None and item.kind in kinds]
        return any(not call.complete for call in calls)

    def repeat(self) -> None:
        """Expect that the vendor repeats the answer from its beginning."""
        for item in self.items:
            tallies = [text.tally for text in item.texts.values()]
            tallies += [item.call.tally] if item.call is not None else []
            for tally in tallies:
                tally.skipped = tally.length

    def parts(self) -> list[dict[str, Any]] | None:
        """Return the content as parts, or None if some text is not known."""
        found: list[tuple[int, dict[str, Any]]] = []
        began = 0
        for item in (*self._earlier, *self.items):
            held: list[Text | Call] = [*item.texts.values(), *([item.call] if item.call else ())]
            for each in held:
                part = each.part()
                if part is None:
                    return None
                began = began if each.began is None else each.began
                if part.get("text") != "":
                    found.append((began, part))
        if not self._resorted:
            found.sort(key=lambda each: each[0])
        return [part for _, part in found]

    def _begin(self, part: Text | Call) -> None:
        """Record that *part* is published."""
        if part.began is None:
            part.began = self._began
            self._began += 1

    def _call_id(self, vendor_id: str, item: Item) -> str:
        """Return an unused id for the part of a call."""
        base = f"{self.prefix}{vendor_id or f'call-{item.ordinal}'}"
        found, n = label(base), 1
        while found in self._call_ids:
            n += 1
            found = label(f"{base}~{n}")
        self._call_ids.add(found)
        return found

    def take_over(self, incoming: RawEvent, item: Item, final: Final) -> list[VendorEvent]:
        """Publish what *item* lacks of *final*; *final* is its content from now on."""
        self.name(item, final.ids)
        if final.at is not None and final.at != item.index:
            item.index = final.at
            self._by_index.setdefault(final.at, []).append(item)
        events: list[VendorEvent] = []
        paired = pair(final.texts, list(item.texts.values()), rank_of_text)
        used = {id(text) for text in paired.values()}
        kinds = {text.kind for text in final.texts}
        for place, text in list(item.texts.items()):
            if id(text) not in used and text.kind in kinds:
                self.amended = self.amended or bool(text.tally.length)
                del item.texts[place]
        for n, whole in enumerate(final.texts):
            text = paired.get(n) or self.text(item, whole.kind, whole.place)
            events += self.text_done(incoming, text, whole.text)
            events += self.annotate(incoming, text, whole.annotations)
        if final.call is not None:
            events += self.call_started(incoming, item, final.call.id, final.call.name)
            call = item.call
            assert call is not None, "it has just been set"  # noqa: S101 - for the type checker
            events += self.args_done(incoming, call, final.call.args)
            if final.call.has_result:
                events += self.result(incoming, call, final.call.result, failed=final.call.failed)
        if final.answers is not None and (call := self.call_with(final.answers.id)) is not None:
            events += self.result(incoming, call, final.answers.result, failed=final.answers.failed)
        item.done, item.raw = True, final.raw or item.raw
        return events

    def _sort(self, order: list[Item]) -> None:
        """Put the items into *order*, if it changes the order of their texts and calls."""
        listed = {id(item) for item in order}
        spoken = [item for item in order if item.kind != "reasoning"]
        if spoken == [i for i in self.items if id(i) in listed and i.kind != "reasoning"]:
            return
        rest = [item for item in self.items if id(item) not in listed]
        before = {id(item): n for n, item in enumerate(self.items)}
        for item in rest:
            after = [n for n, other in enumerate(order) if before[id(other)] < before[id(item)]]
            order.insert(after[-1] + 1 if after else 0, item)
        self.items, self._resorted = order, True


def _content(item: Item) -> tuple[str, str] | None:
    """Return the name and the arguments of a call."""
    return None if item.call is None else (item.call.name, item.call.args or "")


def _newest(items: Sequence[Item]) -> Item:
    streaming = [item for item in items if not item.done]
    return (streaming or items)[-1]


def _free(place: str, taken: dict[str, Text]) -> str:
    """Return *place*, or if that is taken, the next one."""
    letter = "s" if place.startswith("s") else ""
    n = int(place.removeprefix("s"))
    while f"{letter}{n}" in taken:
        n += 1
    return f"{letter}{n}"

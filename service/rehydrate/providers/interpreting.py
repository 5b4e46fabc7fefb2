"""The common part of the interpreters: event order, odd and unknown events, the verdict at the end.

An interpreter does no I/O: it takes the vendor's events one by one and returns typed events, the
last of which is `Ended`. Each type of vendor event has one `Rule` in the interpreter's table, from
which the table in `docs/providers.md` is generated.

An event that cannot be read is set aside, counted and logged. Its effect is decided at the end: an
answer whose end has its whole text is complete, regardless of irregularities before it.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rehydrate.core.json import is_json
from rehydrate.providers.content import Content
from rehydrate.providers.failures import (
    ProviderError,
    StreamBroken,
    StreamUnreadable,
    VendorIncomplete,
    failure_of,
)
from rehydrate.providers.vendor_events import Ended, Unknown, VendorEvent

_log = logging.getLogger(__name__)

Events = Sequence[VendorEvent]

UNKNOWN_TYPES_MAX = 100
"""How many unknown types are counted by name; the rest are counted together."""

RECENT_EVENTS = 32
"""How many of the last events are compared with one whose number is not new."""


class RawEvent(NamedTuple):
    """One event of the vendor: its type, its sequence number if it has one, and its fields."""

    type: str
    number: int | None
    fields: Mapping[str, Any]


_UNPARSED = RawEvent("an unparsed event", None, {})


class Rule(NamedTuple):
    """How one type of vendor event is translated.

    Attributes:
        read: the method of the interpreter that translates it.
        typed: the resulting typed events, for the docs.
        effect: the resulting change of the conversation, for the docs.
        whole: the event has whole content, so that it may be read again.
    """

    read: Callable[[Any, RawEvent], Events]
    typed: str
    effect: str = "nothing"
    whole: bool = False


class Interpreter:
    """The base of the interpreters of the vendors' APIs.

    Attributes:
        rules: the rule for each type of event.
        content: the answer so far.
        sequence_number: the vendor's greatest number so far.
        numbered: the vendor's numbers can be used: so far, each was new or a repetition.
        end: the last event, or None.
        unknown: how often each unknown type of event occurred.
        odd: how often each kind of oddity was set aside.
        runnable: the kinds of calls that wait for outputs.
    """

    runnable: frozenset[str] = frozenset()

    def __init__(
        self, rules: Mapping[str, Rule], *, starting_after: int | None = None, prefix: str = ""
    ) -> None:
        self.rules = rules
        self.content = Content(prefix, joined_late=starting_after is not None)
        self.sequence_number = starting_after
        self.numbered = True
        self.end: Ended | None = None
        self.unknown: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self._fault: ProviderError | None = None
        self._end_is_whole = False
        self._debug = _log.isEnabledFor(logging.DEBUG)
        self._replayed_to = starting_after
        self._recent: deque[RawEvent] = deque(maxlen=RECENT_EVENTS)

    @property
    def amended(self) -> bool:
        """True if something was set aside, or final text differs from the deltas; `Ended.parts` is correct."""
        return self.content.amended or bool(self.odd)

    def read(self, raw: Any) -> Events:
        """Return the typed events for the vendor's event *raw*.

        Malformed input does not raise: it is set aside.
        """
        incoming = _UNPARSED
        try:
            incoming = self.parse(raw)
            rule = self.rules.get(incoming.type)
            if incoming.number is not None and not self._is_new(incoming, rule):
                events: Events = ()
            elif rule is None:
                self._count_unknown(incoming.type)
                events = (Unknown(incoming.type, incoming.number, raw),)
            else:
                events = rule.read(self, incoming)
        except (StreamUnreadable, RecursionError) as error:
            self.set_aside(failure_of(error))
            events = (Unknown(incoming.type, incoming.number, raw),)
        if self._debug:
            _log.debug("%.100s (%s) became %s", incoming.type, incoming.number, _kinds(events))
        return events

    def fail(self, error: BaseException) -> Events:
        """Return the events that end the answer because of *error*."""
        failure = failure_of(error)
        parts = self.content.parts() if self.content.amended else None
        return (self.ended("error", failure.ending, error=failure, parts=parts),)

    def break_off(self) -> Events:
        """Return the events that end the answer because its stream ended early."""
        early = StreamBroken("stream_broke_off", "it ended without a final event")
        return self.fail(self._fault or early)

    def followed_by(self, late: Sequence[Any]) -> Ended | None:
        """Return the end, given the events after it; if they have content, it was not the end."""
        end, self.end = self.end, None
        before = self.content.size
        for raw in late:
            self.read(raw)
        more, self.end = self.content.size > before, end
        if end is None or end.status != "completed" or self._end_is_whole or not more:
            return end
        error = VendorIncomplete("event_out_of_order", "the end came before the rest")
        parts = self.content.parts()
        self.end = replace(end, status=error.ending, error=error, parts=parts, calls=())
        return self.end

    def resume(self) -> None:
        """Continue with another stream after one that broke off; repeated events are dropped."""
        self.end = None
        self._replayed_to = self.sequence_number if self.numbered else None
        self._recent.clear()

    def parse(self, raw: Any) -> RawEvent:
        """Return the vendor's event *raw*, which may be an object or a dict, as a `RawEvent`.

        Raises:
            StreamUnreadable: it has no type.
        """
        raise NotImplementedError

    def set_aside(self, fault: ProviderError) -> None:
        """Count and log an event that cannot be read; the answer goes on without it."""
        if not self.odd[fault.code]:
            _log.warning("a vendor's stream is odd: %.100s", fault.code)
        self.odd[fault.code] += 1
        self._fault = self._fault or fault

    def closed(
        self,
        incoming: RawEvent,
        error: ProviderError | None,
        *,
        whole: bool,
        usage: Any = None,
        items: Sequence[dict[str, Any]] = (),
    ) -> Ended:
        """Record and return the end of an answer that the vendor has ended.

        Args:
            incoming: the vendor's last event.
            error: why it did not complete, or None.
            whole: the vendor has sent the whole content at the end.
            usage: its token counts.
            items: its output items.
        """
        self._end_is_whole = whole
        calls = self.content.calls(incoming, self.runnable)
        if error is None and not whole:
            error = self._doubt()
        return self.ended(
            incoming.type,
            "completed" if error is None else error.ending,
            usage=usage if isinstance(usage, dict) else None,
            error=error,
            parts=self.content.parts(),
            items=tuple(items),
            calls=tuple(calls) if error is None else (),
        )

    def ended(self, type_: str, status: Any, **fields: Any) -> Ended:
        """Record and return the last event."""
        complete = {"usage": None, "error": None, "parts": None} | fields
        if not is_json(complete["usage"]):
            complete["usage"] = None  # Python's JSON parser accepts NaN, which is not JSON
        if self.odd:
            _log.warning("an answer was read in spite of %s", dict(self.odd))
        self.end = Ended(type_, self.sequence_number, status, **complete)
        return self.end

    def _doubt(self) -> ProviderError | None:
        """Return why content may be missing, if the end of the answer does not have all of it."""
        if self._fault is not None:
            return self._fault
        if self.content.unfinished(self.runnable):
            return VendorIncomplete("events_missing", "a call was not completed")
        return None

    def _is_new(self, incoming: RawEvent, rule: Rule | None) -> bool:
        """Return False for an event that repeats one.

        A number that is neither new nor the number of a repeated event proves that numbers are
        unreliable: from then on they are not used. Content that is sent whole is always read.
        """
        number, last = incoming.number, self.sequence_number
        if number is None:
            return True
        if self.numbered and (last is None or number > last):
            if last is not None and number > last + 1:
                missing = f"{number - last - 1} events before {incoming.type}"
                self.set_aside(VendorIncomplete("events_missing", missing))
            self.sequence_number = number
            self._recent.append(incoming)
            return True
        if self._replayed_to is not None and number <= self._replayed_to:
            return rule is not None and rule.whole
        differ = any(each.number != number for each in self._recent)
        if differ and incoming in self._recent:
            return False
        self._recent.append(incoming)
        if self.numbered:
            self.numbered = False
            if differ:
                out_of_order = f"{incoming.type} {number} after {last}"
                self.set_aside(VendorIncomplete("event_out_of_order", out_of_order))
        return True

    def _count_unknown(self, type_: str) -> None:
        full = len(self.unknown) >= UNKNOWN_TYPES_MAX and type_ not in self.unknown
        self.unknown["(others)" if full else type_[:100]] += 1


def _kinds(events: Events) -> str:
    """Return the types of *events* for the log, which must not contain their text."""
    return ", ".join(type(event).__name__ for event in events) or "nothing"


def plain(value: Any) -> Any:
    """Return an object of the vendor's package as dicts and lists; other values unchanged."""
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(exclude_unset=True, warnings=False)


def text_of(incoming: RawEvent, key: str) -> str:
    """Return a required text field of the event.

    Raises:
        StreamUnreadable: it is missing or not a string.
    """
    value = incoming.fields.get(key)
    if not isinstance(value, str):
        raise StreamUnreadable("malformed_event", f"{incoming.type} has no text {key!r}")
    return value


def index_in(fields: Mapping[str, Any], key: str) -> int | None:
    """Return an index, counted from 0, or None if there is none."""
    value = fields.get(key)
    return value if type(value) is int and value >= 0 else None


def dict_of(incoming: RawEvent, key: str) -> dict[str, Any]:
    """Return a required object of the event.

    Raises:
        StreamUnreadable: it is missing or not an object.
    """
    value = plain(incoming.fields.get(key))
    if not isinstance(value, dict):
        raise StreamUnreadable("malformed_event", f"{incoming.type} has no object {key!r}")
    return value


def dict_in(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object, or an empty one if there is none."""
    value = plain(fields.get(key))
    return value if isinstance(value, dict) else {}


def dicts_in(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list, or nothing if *value* is not a list."""
    found = plain(value)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def str_or(value: Any, otherwise: str) -> str:
    """Return *value* if it is a non-empty string, else *otherwise*."""
    return value if isinstance(value, str) and value else otherwise

"""The common part of both interpreters: event order, unknown events, checks of deltas.

An interpreter does no I/O: it takes the vendor's events one by one and returns typed events, the
last of which is `Ended`. Each type of vendor event has one `Rule` in the interpreter's table, from
which the table in `docs/providers.md` is generated.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rehydrate.core.json import is_json
from rehydrate.providers.failures import ProviderError, StreamBroken, StreamUnreadable, failure_of
from rehydrate.providers.vendor_events import Ended, Unknown, VendorEvent, label

_log = logging.getLogger(__name__)

Events = Sequence[VendorEvent]

UNKNOWN_TYPES_MAX = 100
"""How many unknown types are counted by name; the rest are counted together."""


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
    """

    read: Callable[[Any, RawEvent], Events]
    typed: str
    effect: str = "nothing"


class Tally:
    """The length and the CRC of a part's deltas, for comparison with the vendor's final text.

    Its size is fixed; storing the deltas would double the memory of every stream.
    """

    __slots__ = ("_crc", "_length", "done", "whole")

    def __init__(self, *, whole: bool = True) -> None:
        self._length = 0
        self._crc = 0
        self.done = False
        self.whole = whole
        """False if the part had begun before this stream, so its deltas cannot be compared."""

    def add(self, text: str) -> None:
        """Add a delta."""
        self._length += len(text)
        self._crc = zlib.crc32(text.encode("utf-8", "surrogatepass"), self._crc)

    def rest(self, full: str) -> str | None:
        """Return the part of *full* that the deltas lack, or None if they do not match *full*."""
        if not self.whole:
            return ""
        head = full[: self._length]
        if len(head) < self._length:
            return None
        if zlib.crc32(head.encode("utf-8", "surrogatepass")) != self._crc:
            return None
        return full[self._length :]


class Interpreter:
    """The base of the interpreters of the vendors' APIs.

    Attributes:
        rules: the rule for each type of event.
        sequence_number: the vendor's number of the last event.
        end: the last event, or None.
        unknown: how often each unknown type of event occurred.
        amended: True if the vendor's final text differs from its deltas; `Ended.parts` is correct.
        missing: True if sequence numbers were skipped, so deltas may have been lost.
        prefix: the prefix of part keys, so that several answers fit into one response.
    """

    def __init__(
        self, rules: Mapping[str, Rule], *, starting_after: int | None = None, prefix: str = ""
    ) -> None:
        self.rules = rules
        self.sequence_number = starting_after
        self.end: Ended | None = None
        self.unknown: Counter[str] = Counter()
        self.amended = False
        self.missing = False
        self.prefix = prefix
        self._debug = _log.isEnabledFor(logging.DEBUG)
        self._replayed_to = starting_after
        self._joined_late = starting_after is not None

    def read(self, raw: Any) -> Events:
        """Return the typed events for the vendor's event *raw*.

        Malformed input does not raise: it ends the answer.
        """
        incoming = _UNPARSED
        try:
            incoming = self.parse(raw)
            if incoming.number is not None and not self._in_order(incoming.type, incoming.number):
                events: Events = ()
            elif (rule := self.rules.get(incoming.type)) is None:
                self._count_unknown(incoming.type)
                events = (Unknown(incoming.type, incoming.number, raw),)
            else:
                events = rule.read(self, incoming)
        except (ProviderError, RecursionError) as error:
            events = self.fail(error)
        if self._debug:
            _log.debug("%.100s (%s) became %s", incoming.type, incoming.number, _kinds(events))
        return events

    def fail(self, error: Exception) -> Events:
        """Return the events that end the answer because of *error*."""
        failure = failure_of(error)
        return (self.ended("error", failure.ending, error=failure),)

    def break_off(self) -> Events:
        """Return the events that end the answer because its stream ended early."""
        return self.fail(StreamBroken("stream_broke_off", "it ended without a final event"))

    def resume(self) -> None:
        """Continue with another stream after one that broke off; repeated events are dropped."""
        self.end = None
        self._replayed_to = self.sequence_number

    def parse(self, raw: Any) -> RawEvent:
        """Return the vendor's event *raw*, which may be an object or a dict, as a `RawEvent`.

        Raises:
            StreamUnreadable: it has no type.
        """
        raise NotImplementedError

    def ended(self, type_: str, status: Any, **fields: Any) -> Ended:
        """Record and return the last event."""
        complete = {"usage": None, "error": None, "parts": None} | fields
        if not is_json(complete["usage"]):
            complete["usage"] = None  # Python's JSON parser accepts NaN, which is not JSON
        self.end = Ended(type_, self.sequence_number, status, **complete)
        return self.end

    def _in_order(self, type_: str, number: int) -> bool:
        """Return False for an event that is repeated after a resume."""
        last = self.sequence_number
        if self._replayed_to is not None and number <= self._replayed_to:
            return False
        if last is not None and number <= last:
            raise StreamUnreadable("event_out_of_order", f"{type_} {number} after {last}")
        if last is not None and number > last + 1:
            self.missing = True
        self.sequence_number = number
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


def index_of(incoming: RawEvent, key: str) -> int:
    """Return a required index, counted from 0, of the event.

    Raises:
        StreamUnreadable: it is missing or not an index.
    """
    value = incoming.fields.get(key)
    if type(value) is not int or value < 0:
        raise StreamUnreadable("malformed_event", f"{incoming.type} has no index {key!r}")
    return value


def dict_of(incoming: RawEvent, key: str) -> dict[str, Any]:
    """Return a required object of the event.

    Raises:
        StreamUnreadable: it is missing or not an object.
    """
    value = plain(incoming.fields.get(key))
    if not isinstance(value, dict):
        raise StreamUnreadable("malformed_event", f"{incoming.type} has no object {key!r}")
    return value


def dicts_in(value: Any) -> list[dict[str, Any]]:
    """Return the objects in a list, or nothing if *value* is not a list."""
    found = plain(value)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def str_or(value: Any, otherwise: str) -> str:
    """Return *value* if it is a non-empty string, else *otherwise*."""
    return value if isinstance(value, str) and value else otherwise


def call_part(call_id: str, name: str, args: str) -> dict[str, Any]:
    """Return the part of a tool call without a result."""
    return {
        "type": "tool_call",
        "tool_call_id": label(call_id),
        "name": label(name),
        "args": args,
        "result": None,
        "status": "in_progress",
    }


def set_result(part: dict[str, Any], result: Any, *, failed: bool = False) -> None:
    """Set the result of a tool call's *part*; if it *failed*, *result* is the error."""
    part["result"] = result
    part["status"] = "failed" if failed else "completed"

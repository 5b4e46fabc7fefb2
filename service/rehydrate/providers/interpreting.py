"""What both vendors' interpreters share: order, counts, and checks of what came as deltas.

An interpreter is pure: it takes the vendor's events one after the other and returns typed ones,
the last of which is `Ended`. What it knows of each vendor event is one line of its table of
`Rule`s, from which the table in the docs is made too.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rehydrate.core.json import is_json
from rehydrate.providers.failures import ProviderError, StreamBroken, StreamUnreadable, failure_of
from rehydrate.providers.vendor_events import Ended, Unknown, VendorEvent

_log = logging.getLogger(__name__)

Events = Sequence[VendorEvent]

UNKNOWN_TYPES_MAX = 100
"""How many unknown types are counted by name; further ones are counted together."""


class Arrived(NamedTuple):
    """One event of the vendor's: its type, its number if it has one, and its fields."""

    type: str
    number: int | None
    fields: Mapping[str, Any]


_UNREADABLE = Arrived("an event that is none", None, {})


class Rule(NamedTuple):
    """What becomes of one type of vendor event.

    Attributes:
        read: takes the interpreter and the event; returns typed events.
        typed: which typed events those are, for the docs.
        said: what the conversation sees of it, for the docs.
    """

    read: Callable[[Any, Arrived], Events]
    typed: str
    said: str = "nothing"


class Tally:
    """How much of a part came as deltas: enough to compare it with the whole, and of fixed size."""

    __slots__ = ("_crc", "_length", "done", "whole")

    def __init__(self, *, whole: bool = True) -> None:
        self._length = 0
        self._crc = 0
        self.done = False
        self.whole = whole
        """Whether it was seen from its beginning."""

    def add(self, text: str) -> None:
        """Count *text*."""
        self._length += len(text)
        self._crc = zlib.crc32(text.encode("utf-8", "surrogatepass"), self._crc)

    def rest(self, full: str) -> str | None:
        """What of *full* has not come yet; None if what came is not its beginning."""
        if not self.whole:
            return ""
        head = full[: self._length]
        if len(head) < self._length:
            return None
        if zlib.crc32(head.encode("utf-8", "surrogatepass")) != self._crc:
            return None
        return full[self._length :]


class Interpreter:
    """Takes one vendor's events; subclasses know which.

    Attributes:
        rules: the table.
        sequence_number: the vendor's number of the last event taken.
        end: the last event, once it is known.
        unknown: how often each unknown type of event came.
        amended: the vendor's final text is not what its deltas said; `Ended.parts` is right.
        missing: numbers were left out, so deltas may have been lost.
        prefix: what the names of parts begin with, so that several answers fit into one response.
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
        """The typed events that the vendor's event *raw* becomes.

        Bad input raises nothing: it ends the answer.
        """
        came = _UNREADABLE
        try:
            came = self.arrived(raw)
            if came.number is not None and not self._in_order(came.type, came.number):
                events: Events = ()
            elif (rule := self.rules.get(came.type)) is None:
                self._count_unknown(came.type)
                events = (Unknown(came.type, came.number, raw),)
            else:
                events = rule.read(self, came)
        except (ProviderError, RecursionError) as error:
            events = self.fail(error)
        if self._debug:
            _log.debug("%.100s (%s) became %s", came.type, came.number, _kinds(events))
        return events

    def fail(self, error: Exception) -> Events:
        """End the answer because of *error*."""
        failure = failure_of(error)
        return (self.ended("error", failure.ending, error=failure),)

    def break_off(self) -> Events:
        """End the answer because its stream has no more events."""
        return self.fail(StreamBroken("stream_broke_off", "it ended without an end"))

    def resume(self) -> None:
        """Go on after a stream that broke off: what comes again is dropped."""
        self.end = None
        self._replayed_to = self.sequence_number

    def arrived(self, raw: Any) -> Arrived:
        """A vendor's event, whichever form it came in.

        Raises:
            StreamUnreadable: it has no type.
        """
        raise NotImplementedError

    def ended(self, type_: str, status: Any, **fields: Any) -> Ended:
        """Note and return the last event."""
        known = {"usage": None, "error": None, "parts": None} | fields
        if not is_json(known["usage"]):
            known["usage"] = None  # the vendor's JSON may hold what JSON has not, as NaN
        self.end = Ended(type_, self.sequence_number, status, **known)
        return self.end

    def _in_order(self, type_: str, number: int) -> bool:
        """Whether an event is new; False for one that is repeated after a resume."""
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
    """What a log says of *events*: never their text."""
    return ", ".join(type(event).__name__ for event in events) or "nothing"


def plain(value: Any) -> Any:
    """An object of the vendor's package as plain dicts and lists; what is plain already stays."""
    dump = getattr(value, "model_dump", None)
    return value if dump is None else dump(exclude_unset=True, warnings=False)


def text_of(came: Arrived, key: str) -> str:
    """A text that the event must have.

    Raises:
        StreamUnreadable: it has not.
    """
    value = came.fields.get(key)
    if not isinstance(value, str):
        raise StreamUnreadable("malformed_event", f"{came.type} has no text {key!r}")
    return value


def index_of(came: Arrived, key: str) -> int:
    """A count from 0 that the event must have.

    Raises:
        StreamUnreadable: it has not.
    """
    value = came.fields.get(key)
    if type(value) is not int or value < 0:
        raise StreamUnreadable("malformed_event", f"{came.type} has no index {key!r}")
    return value


def dict_of(came: Arrived, key: str) -> dict[str, Any]:
    """An object that the event must have.

    Raises:
        StreamUnreadable: it has not.
    """
    value = plain(came.fields.get(key))
    if not isinstance(value, dict):
        raise StreamUnreadable("malformed_event", f"{came.type} has no object {key!r}")
    return value


def dicts_in(value: Any) -> list[dict[str, Any]]:
    """The objects of a list that may be absent."""
    found = plain(value)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def str_or(value: Any, otherwise: str) -> str:
    """*value* if it is a text with something in it."""
    return value if isinstance(value, str) and value else otherwise


def call_part(call_id: str, name: str, args: str) -> dict[str, Any]:
    """The part of a call that has no result yet."""
    return {
        "type": "tool_call",
        "tool_call_id": call_id,
        "name": name,
        "args": args,
        "result": None,
        "status": "in_progress",
    }


def settle(part: dict[str, Any], result: Any, *, failed: bool = False) -> None:
    """Give a call its result, or, if it *failed*, say by *result* why there is none."""
    part["result"] = result
    part["status"] = "failed" if failed else "completed"

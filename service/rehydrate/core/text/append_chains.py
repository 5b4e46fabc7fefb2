"""Append chains: what one attachment received of the channel messages that grow.

The first delivery of such a message is all of it; every later one is what was appended since. So
the chain of one attachment is whole by itself, and only by itself. A delta fits no text from
elsewhere: it may cover several appends, some of which that text has (docs/exactness.md section 9).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from rehydrate.core.event import TEXTUAL

if TYPE_CHECKING:
    from rehydrate.core.event import Event, Version

_WITH_TEXT = TEXTUAL | {"prompt", "tool_call", "tool_args"}

MAX_CHAINS = 2_000
MAX_CHARACTERS = 16 * 1024 * 1024
"""Of all chains together. The least recently used chain is evicted; its next delta then needs a new
attach.
"""


class AppendChains:
    """The channel messages that one attachment received, whole, by serial."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Event] = OrderedDict()
        self._characters = 0

    def whole(self, event: Event) -> Event | None:
        """Return the whole channel message that *event* completes.

        None if *event* is a delta whose base was never delivered: only a new attach can help.
        Events of messages that do not grow are returned as they are.
        """
        version, serial = event.version, event.serial
        if version is None or serial is None:
            return event
        base = self._known.get(serial)
        if base is None or base.version is None:
            if version.is_delta:
                return None
        elif version.serial <= base.version.serial:
            return base
        else:
            event = _after(base, base.version, event, version)
        self._keep(serial, event)
        return event

    def _keep(self, serial: str, event: Event) -> None:
        before = self._known.pop(serial, None)
        self._known[serial] = event
        self._characters += _length(event) - (0 if before is None else _length(before))
        while len(self._known) > MAX_CHAINS or (
            self._characters > MAX_CHARACTERS and len(self._known) > 1
        ):
            _, oldest = self._known.popitem(last=False)
            self._characters -= _length(oldest)


def _after(base: Event, was: Version, event: Event, version: Version) -> Event:
    """Return the whole message that *event* makes of *base*.

    An append may drop the headers that name the response; then those of the base count.
    """
    text = (base.text or "") + (event.text or "") if version.is_delta else event.text or ""
    whole = version._replace(
        is_delta=False, step=version.step or was.step, attempt=version.attempt or was.attempt
    )
    if event.message_id is None or event.message_id == event.serial:
        made = base._replace(id=event.id, status=event.status)
    elif version.is_delta and event.kind == base.kind:
        made = event._replace(value=base.value, name=event.name or base.name)
    else:
        made = event
    return made._replace(text=text if made.kind in _WITH_TEXT else None, version=whole)


def _length(event: Event) -> int:
    return len(event.text or "")

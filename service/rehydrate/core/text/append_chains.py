"""What one attachment was told of channel messages that grow.

Its first sight of such a message is all of it, and whatever comes then is what was appended since.
So the chain of what it was told is whole by itself, and only by itself: a delta fits no text that
came from elsewhere, since it may cover several appends, some of which that text has.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from rehydrate.core.event import TEXTUAL

if TYPE_CHECKING:
    from rehydrate.core.event import Event

_WITH_TEXT = TEXTUAL | {"prompt", "tool_call", "tool_args"}

MAX_CHAINS = 2_000
MAX_CHARACTERS = 16 * 1024 * 1024
"""Of all chains together; the one that was longest silent goes first, and is asked for again."""


class AppendChains:
    """The channel messages that one attachment was told, whole, by serial."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Event] = OrderedDict()
        self._characters = 0

    def whole(self, event: Event) -> Event | None:
        """What *event* means to who has this attachment alone: the whole of the channel message.

        None if it is a delta, and what came before it was never delivered: only a new attach can
        help. Events of channel messages that do not grow are returned as they are.
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
            event = _after(base, event)
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


def _after(base: Event, event: Event) -> Event:
    """The whole that *event* makes of *base*.

    What does not say whose it is (an append may drop the headers) is what its beginning was.
    """
    version, was = event.version, base.version
    if version is None or was is None:
        return event
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

"""Appends that are held back for a moment and delivered as one.

Ably delivers the appends of one stream about 25 times a second. Appends published in between are
delivered at once, and so may overtake an append that is held; and the delivery has the extras of the
last append only. Both are as Ably does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .messages import Message

Schedule = Callable[[float, Callable[[], None]], None]
Deliver = Callable[[Message, Message, str | None], None]


class Rollup:
    """The appends of one channel that are held back, by the serial of their message.

    Args:
        schedule: calls back after so many seconds.
        deliver: sends an append to all who are attached: the delta, the full message, the origin.
    """

    __slots__ = ("_deliver", "_held", "_schedule")

    def __init__(self, schedule: Schedule, deliver: Deliver) -> None:
        self._schedule = schedule
        self._deliver = deliver
        self._held: dict[str, tuple[dict[str, Any], Message, str | None]] = {}

    def add(
        self, delta: dict[str, Any], full: Message, origin_id: str | None, window_ms: int
    ) -> None:
        """Deliver an append: now, with the one that is held, or at the end of the window."""
        serial = full.serial
        held = self._held.get(serial)
        if held is not None:
            delta = _joined(held[0], delta)
            if held[2] != origin_id:
                origin_id = None
            self._held[serial] = (delta, full, origin_id)
        elif window_ms <= 0:
            self._deliver(Message(delta), full, origin_id)
        else:
            self._held[serial] = (delta, full, origin_id)
            self._schedule(window_ms / 1000, lambda: self.flush(serial))

    def flush(self, serial: str | None = None) -> None:
        """Deliver the held appends of one message, or of all."""
        for one in [serial] if serial is not None else list(self._held):
            held = self._held.pop(one, None)
            if held is not None:
                self._deliver(Message(held[0]), held[1], held[2])


def _joined(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """Return two appends as one: both texts, and everything else of the later."""
    if first.get("data") is None:
        return then
    if then.get("data") is None:
        return {**then, "data": first["data"]}
    return {**then, "data": first["data"] + then["data"]}

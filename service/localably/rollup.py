"""Append roll-up: the appends of one message within a time window are delivered as one.

Ably delivers the appends of one message at most once per window (`appendRollupWindow`, 40 ms unless
requested otherwise): the first at once, those that follow within the window together at its end. A
message published meanwhile is delivered at once and so may overtake an append that is held. A joint
delivery has the extras of its last append only. Both are as Ably does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .messages import Message

Schedule = Callable[[float, Callable[[], None]], None]
Deliver = Callable[[Message, Message, str | None], None]
_Held = tuple[dict[str, Any], Message, str | None]


class Rollup:
    """The append windows of one channel, by the serial of the message.

    Args:
        schedule: calls back after so many seconds.
        deliver: sends an append to all attachments: the delta, the full message, the origin.
    """

    __slots__ = ("_deliver", "_schedule", "_windows")

    def __init__(self, schedule: Schedule, deliver: Deliver) -> None:
        self._schedule = schedule
        self._deliver = deliver
        self._windows: dict[str, _Held | None] = {}

    def holds(self, serial: str) -> bool:
        """Return True if an append to that message would join one that is held."""
        return self._windows.get(serial) is not None

    def add(
        self, delta: dict[str, Any], full: Message, origin_id: str | None, window_ms: int
    ) -> None:
        """Deliver an append at once, or hold it until the end of the message's open window."""
        serial = full.serial
        if serial not in self._windows:
            if window_ms > 0:
                self._open(serial, window_ms)
            self._deliver(Message(delta), full, origin_id)
            return
        held = self._windows[serial]
        if held is not None:
            delta = _joined(held[0], delta)
            if held[2] != origin_id:
                origin_id = None
        self._windows[serial] = (delta, full, origin_id)

    def flush(self, serial: str | None = None) -> None:
        """Deliver the held append of one message, or of all; windows stay open."""
        for one in [serial] if serial is not None else list(self._windows):
            held = self._windows.get(one)
            if held is not None:
                self._windows[one] = None
                self._deliver(Message(held[0]), held[1], held[2])

    def _open(self, serial: str, window_ms: int) -> None:
        self._windows[serial] = None
        self._schedule(window_ms / 1000, lambda: self._end(serial, window_ms))

    def _end(self, serial: str, window_ms: int) -> None:
        """Deliver the held append and open the next window; without one, close the window."""
        held = self._windows.pop(serial)
        if held is not None:
            self._open(serial, window_ms)
            self._deliver(Message(held[0]), held[1], held[2])


def _joined(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """Return two appends as one: both texts, and everything else of the later."""
    if first.get("data") is None:
        return then
    if then.get("data") is None:
        return {**then, "data": first["data"]}
    return {**then, "data": first["data"] + then["data"]}

"""Publishes that were acknowledged, so that one that is sent again is not done again (RTN19a)."""

from __future__ import annotations

from typing import Any, Final

_REMEMBERED: Final = 1000


class RecentAcks:
    """The newest acknowledged frames of one connection, by msgSerial."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, dict[str, Any]]] = {}

    def find(self, serial: int, mark: int) -> dict[str, Any] | None:
        """Return how the frame was answered; *mark* stands for its content.

        A msgSerial alone is not enough: a client may restart them at 0 after a failed resume.
        """
        known = self._known.get(serial)
        return known[1] if known is not None and known[0] == mark else None

    def add(self, serial: int, mark: int, result: dict[str, Any]) -> None:
        """Remember how a frame was answered."""
        self._known.pop(serial, None)
        self._known[serial] = (mark, result)
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

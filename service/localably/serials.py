"""Positions on a channel: `<14-digit ms>-<3-digit counter>@<series>`, and `:<index>` for messages.

They sort as text. A message's serial is its publish's channelSerial with an index, so it sorts
directly after it and before every later channelSerial.
"""

from __future__ import annotations

import re
from typing import Final

_FORM: Final = re.compile(r"\A\d{14}-\d{3}@[0-9A-Za-z_-]{1,64}(:\d{3,})?\Z", re.ASCII)
_COUNTS_PER_MS: Final = 1000


class SerialClock:
    """Gives channelSerials that never repeat and never go back, also when the clock does."""

    __slots__ = ("_count", "_last_ms", "series")

    def __init__(self, series: str, first_ms: int = 0) -> None:
        self.series = series
        self._last_ms = first_ms
        self._count = 0

    def skip_to(self, at_ms: int) -> None:
        """Give later serials than those of *at_ms* from now on."""
        if at_ms >= self._last_ms:
            self._last_ms = at_ms + 1
            self._count = 0

    def next(self, now_ms: int) -> str:
        """Return the serial of what happens at *now_ms* (milliseconds)."""
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._count = 0
        else:
            self._count += 1
            if self._count == _COUNTS_PER_MS:
                self._last_ms += 1
                self._count = 0
        return f"{self._last_ms:014d}-{self._count:03d}@{self.series}"


def is_serial(text: str) -> bool:
    """Say whether *text* has the form of a channelSerial or of a message's serial."""
    return _FORM.match(text) is not None


def channel_serial_of(serial: str) -> str:
    """Return the channelSerial at which a message with *serial* was published."""
    return serial.partition(":")[0]


def moment_of(serial: str) -> str:
    """Return time and counter of a well-formed *serial*, which compare between series too."""
    return serial.partition("@")[0]


def milliseconds_of(serial: str) -> int:
    """Return the time that a well-formed *serial* carries, in milliseconds."""
    return int(serial[:14])

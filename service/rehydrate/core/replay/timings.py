"""Timings: the length and time of each event of a run, which a replay needs beside the text.

Packed they take about two bytes an event, so that they can be stored with every text.
"""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from typing import NamedTuple

_PLAIN = b"\x00"
_DEFLATED = b"\x01"
_WORTH_DEFLATING_BYTES = 256


class Timing(NamedTuple):
    """One event: its length in characters (0: no text), and its time in ms since 1970."""

    length: int
    at_ms: int


class Timings:
    """The timings of consecutive events, unpacked on first access."""

    __slots__ = ("_entries", "_packed")

    def __init__(self, entries: list[Timing] | None = None, packed: bytes | None = None) -> None:
        self._entries = entries if entries is not None or packed is not None else []
        self._packed = packed

    @property
    def entries(self) -> list[Timing]:
        """The timings, to which the caller may append."""
        if self._entries is None:
            self._entries = _unpack(self._packed or b"")
        self._packed = None
        return self._entries

    def __len__(self) -> int:
        """How many there are; counting unpacks nothing."""
        return len(self._entries or ()) if self._packed is None else count(self._packed)

    def append(self, timing: Timing) -> None:
        """Add *timing* behind the others."""
        self.entries.append(timing)

    def packed(self) -> bytes:
        """Return the compact form: a tag, then lengths and time differences; empty for none."""
        if self._packed is None:
            self._packed = _pack(self._entries or [])
        return self._packed


def _pack(entries: list[Timing]) -> bytes:
    if not entries:
        return b""
    lengths = [timing.length for timing in entries]
    distances = [b.at_ms - a.at_ms for a, b in pairwise(entries)]
    plain = json.dumps([entries[0].at_ms, lengths, distances], separators=(",", ":")).encode()
    if len(plain) < _WORTH_DEFLATING_BYTES:
        return _PLAIN + plain
    return _DEFLATED + zlib.compress(plain)


def count(packed: bytes) -> int:
    """Count packed timings: they are twice as many numbers, separated by commas."""
    return (_body(packed).count(b",") + 1) // 2 if packed else 0


def _body(packed: bytes) -> bytes:
    return zlib.decompress(packed[1:]) if packed[:1] == _DEFLATED else packed[1:]


def _unpack(packed: bytes) -> list[Timing]:
    if not packed:
        return []
    at_ms, lengths, distances = json.loads(_body(packed))
    entries = []
    for length, distance in zip(lengths, [0, *distances], strict=True):
        at_ms += distance
        entries.append(Timing(length, at_ms))
    return entries

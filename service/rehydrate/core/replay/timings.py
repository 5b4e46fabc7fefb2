"""When each piece of a text came, and how long it was: what a replay needs beside the text.

a list of timings has one entry an event, in order: its length in characters and its time. Packed, it takes
about two bytes an event, so that it can lie beside every text for as long as the text does.
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
    """One event: its length in characters (0 for one that carried no text), its time in ms."""

    length: int
    at_ms: int


class Timings:
    """The entries of consecutive events; unpacked only when somebody looks."""

    __slots__ = ("_entries", "_packed")

    def __init__(self, entries: list[Timing] | None = None, packed: bytes | None = None) -> None:
        self._entries = entries if entries is not None or packed is not None else []
        self._packed = packed

    @property
    def entries(self) -> list[Timing]:
        """The entries, which the caller may append to."""
        if self._entries is None:
            self._entries = _unpack(self._packed or b"")
        self._packed = None
        return self._entries

    def __len__(self) -> int:
        """How many entries there are; counting unpacks nothing."""
        return len(self._entries or ()) if self._packed is None else count(self._packed)

    def append(self, timing: Timing) -> None:
        """Add *timing* behind the others."""
        self.entries.append(timing)

    def packed(self) -> bytes:
        """The compact form: a tag, then lengths and distances in time; nothing for no entries."""
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
    """How many entries a packed list has: twice as many numbers, with commas between them."""
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

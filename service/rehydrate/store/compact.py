"""A wire form as it is stored: with its text in it once.

The wire form of a plain answer says its text twice, as ``text`` and as the text of its one part.
Stored, the second is left out, and a mark and two offsets stand before: where the text begins and
ends. A hydrate puts it back by joining bytes.
"""

from __future__ import annotations

import struct

_HEAD = struct.Struct(">cII")
"""The mark, which no JSON begins with; the offsets count from the mark."""

_MARK = b"~"
_TEXT = b'"text":"'
_PART = b'","parts":[{"type":"text","text":"'
_PART_BYTES = len(_PART)
_END = b'"}]'


def compacted(wire: bytes) -> bytes:
    """*wire* with its text once, where it is there twice; else as it is."""
    end = wire.find(_PART)
    start = wire.find(_TEXT) + len(_TEXT)
    again = end + _PART_BYTES
    text = wire[start:end]
    if end < start or not wire.startswith(text + _END, again):
        return wire
    head = _HEAD.pack(_MARK, start + _HEAD.size, end + _HEAD.size)
    return b"".join((head, wire[:again], wire[again + len(text) :]))


def expanded(stored: bytes) -> bytes:
    """What `compacted` made *stored* of."""
    mark, start, end = _HEAD.unpack_from(stored)
    if mark != _MARK:
        return stored
    again = end + _PART_BYTES
    return b"".join((stored[9:again], stored[start:end], stored[again:]))

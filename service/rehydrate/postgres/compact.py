"""How what is stored is made smaller: wire forms, with their text in them once; and chunks.

The wire form of a plain answer says its text twice, as ``text`` and as the text of its one part.
Stored, the second is left out, and a mark and two offsets stand before: where the text begins and
ends. A hydrate puts it back by joining bytes.

A chunk is read by few and only for as long as its response is open, but goes to the write-ahead log
beside the final text: it is deflated.
"""

from __future__ import annotations

import struct
import zlib

_HEAD = struct.Struct(">cII")
"""The mark, which no JSON begins with; the offsets count from the mark."""

_MARK = b"~"
_TEXT = b'"text":"'
_PART = b'","parts":[{"type":"text","text":"'
_PART_BYTES = len(_PART)
_END = b'"}]'

_DEFLATED = b"\x01"
"""The mark, which no JSON begins with."""

_RAW = -zlib.MAX_WBITS


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


def deflated(body: bytes) -> bytes:
    """*body*, which is JSON, as a chunk stores it: deflated, unless that makes it no smaller."""
    deflate = zlib.compressobj(wbits=_RAW)
    smaller = b"".join((_DEFLATED, deflate.compress(body), deflate.flush()))
    return smaller if len(smaller) < len(body) else body


def inflated(stored: bytes) -> bytes:
    """What `deflated` made *stored* of."""
    if not stored.startswith(_DEFLATED):
        return stored
    return zlib.decompress(memoryview(stored)[1:], _RAW)

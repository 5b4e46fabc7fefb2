"""Compact storage forms: wire forms with their text stored once, and deflated chunks.

The wire form of a plain answer contains its text twice: as ``text`` and as the text of its only
part. The stored form leaves out the second copy and begins with a mark and two offsets, the start
and the end of the text. Expanding it joins byte slices and parses nothing, so hydrate can send
stored messages without decoding them.

A chunk is rarely read, and only while its response is open. But it goes to the write-ahead log in
addition to the final text, so it is deflated.
"""

from __future__ import annotations

import struct
import zlib

_HEAD = struct.Struct(">cII")
"""The mark, then the start and the end of the text, counted from the mark."""

_MARK = b"~"  # JSON cannot begin with it, so a form that was stored in full is recognised
_TEXT = b'"text":"'
_PART = b'","parts":[{"type":"text","text":"'
_PART_BYTES = len(_PART)
_END = b'"}]'

_DEFLATED = b"\x01"  # JSON cannot begin with it

_RAW = -zlib.MAX_WBITS


def compacted(wire: bytes) -> bytes:
    """Return *wire* with the second copy of its text removed, or unchanged if it has only one."""
    end = wire.find(_PART)
    start = wire.find(_TEXT) + len(_TEXT)
    again = end + _PART_BYTES
    text = wire[start:end]
    if end < start or not wire.startswith(text + _END, again):
        return wire
    head = _HEAD.pack(_MARK, start + _HEAD.size, end + _HEAD.size)
    return b"".join((head, wire[:again], wire[again + len(text) :]))


def expanded(stored: bytes) -> bytes:
    """Return the wire form that was passed to `compacted`."""
    mark, start, end = _HEAD.unpack_from(stored)
    if mark != _MARK:
        return stored
    again = end + _PART_BYTES
    return b"".join((stored[9:again], stored[start:end], stored[again:]))


def deflated(body: bytes) -> bytes:
    """Return the stored form of the JSON *body*: deflated if that makes it smaller."""
    deflate = zlib.compressobj(wbits=_RAW)
    smaller = b"".join((_DEFLATED, deflate.compress(body), deflate.flush()))
    return smaller if len(smaller) < len(body) else body


def inflated(stored: bytes) -> bytes:
    """Return the JSON that was passed to `deflated`."""
    if not stored.startswith(_DEFLATED):
        return stored
    return zlib.decompress(memoryview(stored)[1:], _RAW)

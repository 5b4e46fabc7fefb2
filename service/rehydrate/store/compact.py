"""A wire form as it is stored: with its text in it once.

The wire form of a plain answer says its text twice, as ``text`` and as the text of its one part.
Stored, the second is left out and a mark put before; a hydrate puts it back by joining bytes.
"""

from __future__ import annotations

_MARK = b"~"
"""No JSON begins with it."""

_TEXT = b'"text":"'
_PART = b'","parts":[{"type":"text","text":"'
_END = b'"}]'


def compacted(wire: bytes) -> bytes:
    """*wire* with its text once, where that can be undone; else as it is."""
    at = wire.find(_PART)
    start = wire.find(_TEXT) + len(_TEXT)
    after = at + len(_PART)
    text = wire[start:at]
    if at < start or not wire.startswith(text + _END, after):
        return wire
    stored = _MARK + wire[:after] + wire[after + len(text) :]
    return stored if expanded(stored) == wire else wire


def expanded(stored: bytes) -> bytes:
    """What `compacted` made *stored* of."""
    if stored[:1] != _MARK:
        return stored
    at = stored.find(_PART)
    after = at + len(_PART)
    text = stored[stored.find(_TEXT) + len(_TEXT) : at]
    return b"".join((stored[1:after], text, stored[after:]))

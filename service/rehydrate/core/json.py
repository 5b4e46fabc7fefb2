"""JSON as the service writes it: compact, in UTF-8, also where text is not valid Unicode."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_LEVELS = 64
"""How deep values may be nested: JSON writers and readers fail somewhere beyond."""

_MAX_BITS = 1024
"""The largest integer, in bits: about what a float can hold, and what JSON readers accept."""


def dump(value: Any) -> bytes:
    """Return *value* as compact JSON in UTF-8.

    Halves of surrogate pairs, which a publisher may have cut apart, are escaped: a reader that
    joins the texts has the character.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def sent_bytes(value: Any) -> int:
    """Return the length of *value* as message data: Ably's SDK for Python escapes all but ASCII."""
    return len(json.dumps(value))


HEADER_BITS = 63
"""The largest integer in a header, in bits: MessagePack cannot carry a larger one."""


def is_json(value: Any, levels: int = MAX_LEVELS, most_bits: int = _MAX_BITS) -> bool:
    """Return True if *value* is JSON-serializable: finite numbers, string keys, limited depth.

    Messages of other publishers need not be: encodings other than JSON have more types, and 1e999
    is infinite in every language.
    """
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return False
        value = list(value.values())
    if isinstance(value, list):
        return levels > 0 and all(is_json(each, levels - 1, most_bits) for each in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return value.bit_length() <= most_bits
    return value is None or isinstance(value, str)

"""JSON as it goes out: compact, in UTF-8, also where text is no valid Unicode."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_LEVELS = 64
"""How deep values may be nested: writers and readers of JSON give up somewhere beyond."""

_MAX_BITS = 1024
"""Of a whole number: about what a float can hold, and what every reader of JSON takes."""


def dump(value: Any) -> bytes:
    """*value* as compact JSON in UTF-8.

    Text with halves of surrogate pairs, as a publisher may cut it, is escaped instead: the halves
    meet again in whoever reads it.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def sent_bytes(value: Any) -> int:
    """How long *value* is as a message's data: Ably's SDK for Python escapes all but ASCII."""
    return len(json.dumps(value))


HEADER_BITS = 63
"""Of a whole number in a header: those are no JSON where an SDK speaks MessagePack."""


def is_json(value: Any, levels: int = MAX_LEVELS, most_bits: int = _MAX_BITS) -> bool:
    """Whether JSON can say *value*: no NaN, no bytes, text as keys, at most *levels* deep.

    What others publish need not be so: encodings other than JSON can say more, and 1e999 is
    infinite in every language.
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

"""JSON as the service writes and reads it: `dump` and `load` are exact inverses.

Compact, in UTF-8, also where text is not valid Unicode. Integers have any size: faster parsers
return those beyond 64 bits as floats, so that a stored value would differ from the published one.
NaN and the infinities are not JSON, and are neither written nor read.
"""

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

    Raises:
        TypeError, ValueError: *value* is not JSON-serializable; NaN and the infinities are not.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def load(body: bytes | str) -> Any:
    """Return the value that *body* contains, with integers of any size.

    Raises:
        ValueError: *body* is not JSON in UTF-8, is nested too deeply, or contains a number that is
            not finite, or an integer of more than 4,300 digits.
    """
    try:
        return _DECODER.decode(body if isinstance(body, str) else body.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    """Return the number *text*; a literal such as 1e999 would become infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def sent_bytes(value: Any) -> int:
    """Return the length of *value* as message data, in bytes of UTF-8."""
    return len(dump(value))


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

"""JSON as it goes out: compact, in UTF-8, also where text is no valid Unicode."""

from __future__ import annotations

import json
from typing import Any


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

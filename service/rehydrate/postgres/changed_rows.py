"""Rows that another program has changed, so that their content and their key name different messages."""

from __future__ import annotations

import logging
from typing import Any

from rehydrate.limits import BoundedCache

_log = logging.getLogger(__name__)

_reported: BoundedCache[tuple[str, str], None] = BoundedCache(1_000)


def with_id(body: dict[str, Any], id_: str) -> dict[str, Any]:
    """Return the wire form *body* of the row with the key *id_*.

    If it names another message, the key counts, since events find the row by its key, and the message
    is not exact. This is logged once. Refusing such a row would stop the recording of its conversation.
    """
    inner = body["id"]
    if inner == id_:
        return body
    if (id_, inner) not in _reported:
        _reported[id_, inner] = None
        _log.error(
            "the row of message %r contains message %r: another program has changed its id or its"
            " content. It counts as %r, and not as exact. Restore the row, or erase the conversation",
            id_,
            inner,
            id_,
        )
    return {**body, "id": id_, "exact": False}

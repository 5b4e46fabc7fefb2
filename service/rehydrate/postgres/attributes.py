"""The attributes of a message state as JSON, reduced to those that differ from a base state.

A state consists of its content (see `runs`) and of about twenty-five small attributes. Most of them
have their default, or follow from the wire form, so only the difference is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.fold import MessageState, Owner
from rehydrate.core.text.versioned_messages import VersionedHeader, VersionedMessage

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = (
    "role", "gen", "status", "prompt_id", "owner", "anonymous", "started_ms", "finished_ms",
    "metadata", "usage", "error", "end", "seq", "serial", "last_id", "start_id", "repaired",
    "headless", "inexact", "sealed", "provisional", "pointer", "recent", "steps", "ephemeral",
)  # fmt: skip
"""The attributes of `MessageState` that are stored under their own names.

Runs and position are stored elsewhere. The headers of versioned messages are stored here, under
the key ``cells``; their content is stored with the runs.
"""

_NAMES = frozenset(NAMES)


def values(state: MessageState) -> dict[str, Any]:
    """Return every stored attribute of *state*; the mutable ones are copied."""
    found = {name: getattr(state, name) for name in NAMES}
    found["recent"] = dict(state.recent)
    found["steps"] = dict(state.steps)
    found["cells"] = _versioned_headers(state)
    return found


def difference(state: MessageState, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of *state* whose values differ from those in *base*."""
    changed = {name: value for name in NAMES if (value := getattr(state, name)) != base[name]}
    if state.versioned and (headers := _versioned_headers(state)) != base["cells"]:
        changed["cells"] = headers
    elif base["cells"] and not state.versioned:
        changed["cells"] = []
    return changed


def _versioned_headers(state: MessageState) -> list[VersionedHeader]:
    return [cell.header for cell in state.versioned.values()]


def apply(state: MessageState, stored: Mapping[str, Any]) -> None:
    """Set the attributes of *state* that `difference` returned, after a round trip through JSON.

    Versioned messages are restored with their headers only; their content comes with the runs.
    Unknown names are ignored, because a newer release may write to the same database.
    """
    known = {name: value for name, value in stored.items() if name in _NAMES}
    if "cells" in stored:
        headers = [
            VersionedHeader(*header[: len(VersionedHeader._fields)]) for header in stored["cells"]
        ]
        known["versioned"] = {header.serial: VersionedMessage(header) for header in headers}
    if known.get("owner") is not None:
        known["owner"] = Owner(*known["owner"])
    state.restore(known)


def recent_change(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[int | None, Any]:
    """Describe how the ordered ids of the overlap margin changed from *before* to *now*.

    The ids behave like a queue: the oldest are dropped, new ones are appended.

    Returns:
        How many ids were dropped at the front, and the ids that were appended. If the change does
        not have that form: None, and all ids of *now*.
    """
    dropped = 0
    for key in before:
        if key in now:
            break
        dropped += 1
    kept = list(before.items())[dropped:]
    order = list(now.items())
    if order[: len(kept)] != kept:  # compares the times too: an id may have left and come back
        return None, dict(now)
    return dropped, dict(order[len(kept) :])


def apply_recent_change(
    before: dict[str, int], dropped: int | None, appended: dict[str, int]
) -> dict[str, int]:
    """Return the ids after a change that `recent_change` described; may modify *before*."""
    if dropped is None:
        return appended
    for key in list(before)[:dropped]:
        del before[key]
    before.update(appended)
    return before

"""What a fold knows beside its text, as JSON: only what differs from a state known otherwise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson

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

Its runs and its position are stored elsewhere. Of its versioned messages the headers are stored
here, as ``cells``; their content is stored with the runs.
"""

_NAMES = frozenset(NAMES)


def parsed(body: bytes) -> Any:
    """*body* as `core.json.dump` made it, also where it holds halves of surrogate pairs."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def values(state: MessageState) -> dict[str, Any]:
    """All facts of *state*, apart from what it may still change in place."""
    known = {name: getattr(state, name) for name in NAMES}
    known["recent"] = dict(state.recent)
    known["steps"] = dict(state.steps)
    known["cells"] = _places(state)
    return known


def differing(state: MessageState, base: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of *state* that are not as in *base*."""
    told = {name: value for name in NAMES if (value := getattr(state, name)) != base[name]}
    if state.versioned and (places := _places(state)) != base["cells"]:
        told["cells"] = places
    elif base["cells"] and not state.versioned:
        told["cells"] = []
    return told


def _places(state: MessageState) -> list[VersionedHeader]:
    return [cell.header for cell in state.versioned.values()]


def apply(state: MessageState, facts: Mapping[str, Any]) -> None:
    """Give *state* the *facts* that `differing` found; what its cells say is not among them.

    Newer code that runs beside this may know more: that is passed over.
    """
    known = {name: value for name, value in facts.items() if name in _NAMES}
    if "cells" in facts:
        places = [
            VersionedHeader(*place[: len(VersionedHeader._fields)]) for place in facts["cells"]
        ]
        known["versioned"] = {place.serial: VersionedMessage(place) for place in places}
    if known.get("owner") is not None:
        known["owner"] = Owner(*known["owner"])
    state.restore(known)


def ids_since(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[int | None, Any]:
    """How the ids of the margin changed: how many went in front, and which came behind.

    None as the number: take the ids as they are instead.
    """
    gone = 0
    for key in before:
        if key in now:
            break
        gone += 1
    kept = list(before.items())[gone:]
    order = list(now.items())
    if order[: len(kept)] != kept:  # by time too: an id may have gone and come again
        return None, dict(now)
    return gone, dict(order[len(kept) :])


def ids_after(before: dict[str, int], gone: int | None, came: dict[str, int]) -> dict[str, int]:
    """The ids of the margin after a change that `ids_since` described."""
    if gone is None:
        return came
    for key in list(before)[:gone]:
        del before[key]
    before.update(came)
    return before

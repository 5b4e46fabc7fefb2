"""Attaching: modes, params, and which messages come before the live ones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from .auth import Identity
from .errors import RefusedError
from .frames import MODES, Flag
from .log import MessageLog, MissedMessages
from .names import ChannelName
from .serials import is_serial

_OPERATION_OF_MODE: Final = {
    Flag.PRESENCE: "presence",
    Flag.PUBLISH: "publish",
    Flag.SUBSCRIBE: "subscribe",
    Flag.PRESENCE_SUBSCRIBE: "subscribe",
    Flag.ANNOTATION_PUBLISH: "annotation-publish",
    Flag.ANNOTATION_SUBSCRIBE: "annotation-subscribe",
}
_DEFAULT_MODES: Final = MODES & ~Flag.ANNOTATION_SUBSCRIBE
_KNOWN_PARAMS: Final = frozenset(
    {"rewind", "rewindLimit", "modes", "delta", "occupancy", "echo", "appendMode"}
)
_NOT_FILTERED: Final = frozenset({"rewind", "rewindLimit", "modes", "delta"})
_WINDOW: Final = re.compile(r"\A(\d{1,9})([smSM])\Z", re.ASCII)
_MS_OF_UNIT: Final = {"s": 1000, "m": 60_000}


@dataclass(frozen=True, slots=True)
class Wish:
    """What an ATTACH asks for.

    Attributes:
        modes: the modes it names; the default ones if it names none.
        params: the params that are known here, as text.
    """

    modes: Flag
    params: dict[str, str]


def wish_of(frame: dict[str, Any], name: ChannelName) -> Wish:
    """Return what an ATTACH frame asks for; params that are unknown are left out (RTL4k1).

    Raises:
        RefusedError: 40000, a mode or a param is not well formed.
    """
    given = {**name.params, **frame.get("params", {})}
    params = {key: str(value) for key, value in given.items() if key in _KNOWN_PARAMS}
    if name.filter is not None:
        params = {key: value for key, value in params.items() if key not in _NOT_FILTERED}
        return Wish(Flag.SUBSCRIBE, params)
    if "delta" in params and params["delta"] != "vcdiff":
        del params["delta"]
    named = _named_modes(params["modes"]) if "modes" in params else None
    asked = Flag(frame.get("flags", 0)) & MODES
    return Wish(named if named is not None else asked or _DEFAULT_MODES, params)


def granted_modes(wish: Wish, identity: Identity, channel: str) -> Flag:
    """Return the modes asked for that the capability grants on the resource *channel*.

    Raises:
        RefusedError: 40160, it grants none of them.
    """
    granted = Flag(0)
    for mode, operation in _OPERATION_OF_MODE.items():
        if mode in wish.modes and identity.capability.allows(channel, operation):
            granted |= mode
    if not granted:
        raise RefusedError(40160, f"the capability grants nothing on channel {channel!r}")
    return granted


def rewound(log: MessageLog, params: dict[str, str], now_ms: int, cap: int) -> MissedMessages:
    """Return the messages that `rewind` asks for: a count, a window, or those after a serial.

    Raises:
        RefusedError: 40000, `rewind` or `rewindLimit` is invalid.
    """
    wanted = params.get("rewind")
    if wanted is None:
        return MissedMessages([], log.head)
    limit = _count(params["rewindLimit"]) if "rewindLimit" in params else None
    if is_serial(wanted):
        return log.after(wanted, cap if limit is None else min(cap, limit))
    window = _WINDOW.match(wanted)
    if window is not None:
        since_ms = now_ms - int(window[1]) * _MS_OF_UNIT[window[2].lower()]
        return log.newest(limit, since_ms, cap)
    count = _count(wanted)
    return log.newest(count if limit is None else min(count, limit), None, cap)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise RefusedError(40000, "rewind is a number, a time such as 10s or 2m, or a serial")
    return int(text)


_MOST_DIGITS: Final = 9


def _named_modes(text: str) -> Flag:
    found = Flag(0)
    for name in text.split(","):
        mode = Flag.__members__.get(name.strip().upper())
        if mode is None or mode not in MODES:
            raise RefusedError(40000, "params.modes names an unknown mode")
        found |= mode
    return found

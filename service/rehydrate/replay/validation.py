"""What may be asked of a replay, and where it may go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.capability import Capability
from rehydrate.core.replay.requests import MAX_RATE, MAX_SPEED, MODES, ReplayTerms
from rehydrate.errors import BadParameter, Conflict, Forbidden, TooLarge

if TYPE_CHECKING:
    from collections.abc import Collection

    from rehydrate.core.message import MessageState
    from rehydrate.core.replay.schedule import Schedule

USUAL_RATE = 50.0
"""Channel messages a second of a channel whose own limit is not known."""

LEAST_RATE, MOST_RATE = 0.1, 10_000.0
MOST_SEQ = 2**31 - 1

MOST_BYTES = 64 * 1024
"""Of one channel message: Ably takes no more from some accounts."""

_KEY_LENGTH = 256


class Targets(NamedTuple):
    """Where replays may go, beside the conversation's own channel.

    ``patterns``: channels, as capabilities name them. ``rate_per_s``: what a channel takes; 0: any.
    """

    patterns: Collection[str] = ()
    rate_per_s: float = USUAL_RATE

    def check(self, channel: str) -> None:
        """Return if a replay may go to *channel*.

        Raises:
            Forbidden: it may not.
        """
        publish = frozenset({"publish"})
        allowed = Capability(dict.fromkeys(self.patterns, publish))
        if not allowed.granted(channel, publish):
            raise Forbidden("replays may not go to that channel: see REHYDRATE_REPLAY_CHANNELS")

    def rate(self, asked: float, *, own: bool) -> float:
        """How many channel messages a second a replay may send, which *asked* for so many.

        Raises:
            BadParameter: a channel does not take as many.
        """
        usual = self.rate_per_s or USUAL_RATE
        if not asked:
            return min(usual, MAX_RATE) if own else usual
        if self.rate_per_s and asked > self.rate_per_s:
            raise BadParameter(
                "max_rate", f"max_rate is at most {usual:g}, as REHYDRATE_PUBLISH_RATE says"
            )
        return asked


def check_terms(terms: ReplayTerms) -> None:
    """Return if *terms* are within their ranges.

    Raises:
        BadParameter: one is not; names it.
    """
    if terms.mode not in MODES:
        raise BadParameter("mode", "mode is stream or repair")
    if not (math.isfinite(terms.speed) and 0 <= terms.speed <= MAX_SPEED):
        raise BadParameter("speed", f"speed is a number from 0 to {MAX_SPEED:g}")
    if not 0 <= terms.from_seq <= MOST_SEQ:
        raise BadParameter("from_seq", "from_seq is a seq: a whole number from 0 on")
    if terms.max_rate and not LEAST_RATE <= terms.max_rate <= MOST_RATE:
        raise BadParameter("max_rate", f"max_rate is a number from {LEAST_RATE} to {MOST_RATE:g}")


def check_key(key: str | None) -> None:
    """Return if *key* can be the key of a request.

    Raises:
        BadParameter: it cannot.
    """
    if key is not None and not (
        1 <= len(key) <= _KEY_LENGTH and key.isascii() and key.isprintable()
    ):
        raise BadParameter("Idempotency-Key", "the key has 1 to 256 printable ASCII characters")


def check_repairable(state: MessageState) -> None:
    """Return if what is stored of *state* may be told to readers as the whole of it.

    Raises:
        Conflict: it is not all there, or may still go on.
    """
    if not state.ended:
        raise Conflict(f"response {state.id!r} ended by its silence alone, and may go on")
    if state.gaps() or not state.exact:
        raise Conflict(f"response {state.id!r} is not stored whole: readers may have more of it")


def check_schedule(schedule: Schedule, terms: ReplayTerms) -> None:
    """Return if *schedule* can be published.

    Raises:
        BadParameter: there is nothing from that seq on.
        TooLarge: a part of it does not fit a channel message.
    """
    if terms.from_seq and not schedule.chunks:
        raise BadParameter("from_seq", "the response has nothing from that seq on")
    if schedule.largest_bytes() > MOST_BYTES:
        raise TooLarge("a part of the response does not fit a channel message")

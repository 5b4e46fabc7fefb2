"""Validation of replays: their terms, and the channels on which they may be published."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from rehydrate.core.capability import Capability
from rehydrate.core.message import MessageState
from rehydrate.core.replay.schedule import (
    MAX_RATE,
    MAX_SECONDS,
    MAX_SPEED,
    MIN_SPEED,
    MODES,
    ReplayTerms,
    Schedule,
    scheduled,
)
from rehydrate.errors import BadParameter, Conflict, Forbidden, TooLarge

DEFAULT_RATE = 50.0
"""Channel messages per second on a channel whose limit is unknown."""

MIN_RATE, MAX_ANY_RATE = 0.1, 10_000.0
MAX_SEQ = 2**31 - 1

MAX_BYTES = 64 * 1024
"""The size of one channel message in bytes: the lowest limit of Ably's packages."""

_MAX_KEY_LENGTH = 256


class Targets(NamedTuple):
    """The channels on which replays may be published, besides the conversation's own.

    Attributes:
        patterns: channel names, with the wildcards of capabilities.
        rate_per_s: the rate limit of a channel, in messages per second; 0: unlimited.
    """

    patterns: Collection[str] = ()
    rate_per_s: float = DEFAULT_RATE

    def check(self, channel: str) -> None:
        """Return if a replay may be published on *channel*.

        Raises:
            Forbidden: it may not.
        """
        publish = frozenset({"publish"})
        allowed = Capability(dict.fromkeys(self.patterns, publish))
        if not allowed.granted(channel, publish):
            raise Forbidden(
                "replays to this channel are not allowed: set REHYDRATE_REPLAY_CHANNELS"
            )

    def rate(self, asked: float, *, own: bool) -> float:
        """Return the rate of a replay, in channel messages per second.

        Args:
            asked: the requested rate; 0: the default.
            own: whether it is published on the conversation's own channel, which it must share.

        Raises:
            BadParameter: *asked* is over the limit of a channel.
        """
        usual = self.rate_per_s or DEFAULT_RATE
        if not asked:
            return min(usual, MAX_RATE) if own else usual
        if self.rate_per_s and asked > self.rate_per_s:
            raise BadParameter(
                "max_rate", f"max_rate must be at most {usual:g} (REHYDRATE_PUBLISH_RATE)"
            )
        return asked


def check_terms(terms: ReplayTerms) -> ReplayTerms:
    """Return *terms* if they are within their ranges, with numbers of the declared types.

    So a speed of 1 and one of 1.0 are the same request.

    Raises:
        BadParameter: one is not; names it.
    """
    if terms.mode not in MODES:
        raise BadParameter("mode", "mode must be stream or repair")
    if terms.speed != 0 and not MIN_SPEED <= terms.speed <= MAX_SPEED:  # NaN is not, either
        limits = f"{MIN_SPEED:g} to {MAX_SPEED:g}"
        raise BadParameter("speed", f"speed must be a number from {limits}, or 0")
    if not 0 <= terms.from_seq <= MAX_SEQ:
        raise BadParameter("from_seq", f"from_seq must be an integer from 0 to {MAX_SEQ}")
    if terms.max_rate and not MIN_RATE <= terms.max_rate <= MAX_ANY_RATE:
        raise BadParameter("max_rate", f"max_rate is a number from {MIN_RATE} to {MAX_ANY_RATE:g}")
    return terms._replace(
        speed=abs(float(terms.speed)), from_seq=int(terms.from_seq), max_rate=float(terms.max_rate)
    )


def check_key(key: str | None) -> None:
    """Return if *key* is a valid idempotency key.

    Raises:
        BadParameter: it is not.
    """
    if key is not None and not (
        1 <= len(key) <= _MAX_KEY_LENGTH and key.isascii() and key.isprintable()
    ):
        raise BadParameter(
            "Idempotency-Key", "the key must have 1 to 256 printable ASCII characters"
        )


def check_repairable(state: MessageState) -> None:
    """Return if the stored text of *state* may replace the text that its readers have.

    Raises:
        Conflict: it has gaps, or the response may continue.
    """
    if not state.ended:
        raise Conflict(f"response {state.id!r} ended by the idle limit only, and may continue")
    if state.gaps() or not state.exact:
        raise Conflict(
            f"response {state.id!r} is stored with gaps: readers may have text that it lacks"
        )


def check_schedule(schedule: Schedule, terms: ReplayTerms) -> None:
    """Return if *schedule* can be published.

    Raises:
        BadParameter: the response has no event from ``from_seq`` on, or it would take too long.
        TooLarge: a part of it does not fit a channel message.
    """
    if schedule.seconds > MAX_SECONDS:
        hours, most = schedule.seconds / 3600, MAX_SECONDS / 3600
        raise BadParameter(
            "speed",
            f"the replay would take {hours:.1f} hours, and {most:g} is the most: use a higher speed, "
            "speed 0, or a higher max_rate",
        )
    if terms.from_seq and not schedule.chunks:
        raise BadParameter("from_seq", f"the response has no event from seq {terms.from_seq} on")
    if schedule.largest_bytes() > MAX_BYTES:
        raise TooLarge(
            f"a part of the response is over {MAX_BYTES} bytes, the limit of a channel message"
        )


def planned(state: MessageState, terms: ReplayTerms) -> tuple[Schedule, Mapping[str, Any]]:
    """Return the schedule of *state* on *terms*, and the part of it that is stored.

    Raises:
        BadParameter: the response has no event from ``from_seq`` on, or it would take too long.
        TooLarge: a part of it does not fit a channel message.
    """
    schedule = scheduled(state, terms)
    check_schedule(schedule, terms)
    plan = {"joined": schedule.joined, "even": schedule.even, "gaps": schedule.gaps}
    return schedule, {**plan, "digest": schedule.digest()}

"""Validation of replays: terms, keys, channels and rates."""

from __future__ import annotations

import math

import pytest

from core.builders import event, folded, start, stop, token
from rehydrate.core.json import dump
from rehydrate.core.replay.schedule import MAX_SECONDS, ReplayTerms, scheduled
from rehydrate.errors import BadParameter, Conflict, Forbidden, TooLarge
from rehydrate.replay.validation import (
    Targets,
    check_key,
    check_repairable,
    check_schedule,
    check_terms,
)

BAD_SPEEDS = (-0.1, -1e-300, 5e-324, 1e-300, 0.0099, 1000.1, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize(
    ("terms", "parameter"),
    [
        (ReplayTerms("loop"), "mode"),
        *((ReplayTerms(speed=wrong), "speed") for wrong in BAD_SPEEDS),
        *((ReplayTerms(from_seq=wrong), "from_seq") for wrong in (-1, 2**31)),
        *(
            (ReplayTerms(max_rate=wrong), "max_rate")
            for wrong in (-1, 0.05, 1e5, math.nan, math.inf)
        ),
    ],
)
def test_terms_outside_their_ranges_are_named(terms, parameter):
    with pytest.raises(BadParameter) as caught:
        check_terms(terms)
    assert caught.value.parameter == parameter


def test_terms_at_the_limits_of_their_ranges_are_accepted():
    for terms in (ReplayTerms(), ReplayTerms("repair", 0), ReplayTerms(speed=1000, max_rate=0.1)):
        assert check_terms(terms) == terms
    assert check_terms(ReplayTerms(speed=0.01)) == ReplayTerms(speed=0.01)


def test_equal_numbers_of_other_types_are_the_same_terms():
    for given, same in ((1, 1.0), (True, 1.0), (0, 0.0), (-0.0, 0.0)):
        checked = check_terms(ReplayTerms(speed=given, max_rate=25))
        assert dump(checked) == dump(ReplayTerms(speed=same, max_rate=25.0))


@pytest.mark.parametrize(
    ("terms", "accepted"),
    [
        (ReplayTerms(speed=1.0, max_rate=25.0), True),
        (ReplayTerms(speed=0.9, max_rate=25.0), False),
        (ReplayTerms(speed=0.01, max_rate=25.0), False),
        (ReplayTerms(speed=0, max_rate=25.0), True),
    ],
)
def test_a_replay_has_a_longest_time(terms, accepted):
    state = folded(start(), token(1, "a"), stop(2, at_s=MAX_SECONDS))
    schedule = scheduled(state, terms)
    if accepted:
        check_schedule(schedule, terms)
        return
    with pytest.raises(BadParameter, match="hours, and 6 is the most") as caught:
        check_schedule(schedule, terms)
    assert caught.value.parameter == "speed"


@pytest.mark.parametrize("key", ["", "x" * 257, "é", "a\n", "a\0"])
def test_a_key_must_be_short_and_printable(key):
    with pytest.raises(BadParameter):
        check_key(key)
    check_key(None)
    check_key("x" * 256)


def test_only_allowed_channels_are_targets():
    targets = Targets(["demo:*", "one"])
    for channel in ("demo:a", "demo:a:b", "one"):
        targets.check(channel)
    for channel in ("demo", "two", "ai:c", "xdemo:a", "one:x"):
        with pytest.raises(Forbidden, match="REHYDRATE_REPLAY_CHANNELS"):
            targets.check(channel)
    with pytest.raises(Forbidden):
        Targets().check("one")


@pytest.mark.parametrize(
    ("limit", "asked", "own", "given"),
    [(50, 0, True, 25), (50, 0, False, 50), (10, 0, True, 10), (0, 0, True, 25), (0, 0, False, 50),
     (50, 50, True, 50), (0, 400, True, 400)],
)  # fmt: skip
def test_the_rate_is_the_requested_one_or_leaves_room_for_others(limit, asked, own, given):
    assert Targets((), limit).rate(asked, own=own) == given


def test_a_rate_over_the_limit_of_a_channel_is_refused():
    with pytest.raises(BadParameter, match="REHYDRATE_PUBLISH_RATE"):
        Targets((), 50).rate(51, own=False)


def test_only_a_response_without_gaps_can_be_a_repair():
    check_repairable(folded(start(), token(1, "a"), stop(2)))
    gapped = folded(start(), token(2, "b"), stop(3))
    headless = folded(event("token", None, "a"), event("stop", None, at_s=2))
    silent = folded(start(), token(1, "a"))
    silent.status, silent.provisional = "interrupted", True
    for state in (gapped, headless, silent, folded(start())):
        with pytest.raises(Conflict):
            check_repairable(state)


def test_a_schedule_that_cannot_be_published_is_refused():
    state = folded(start(), token(1, "a"), stop(2))
    late = ReplayTerms(from_seq=9, max_rate=25)
    with pytest.raises(BadParameter):
        check_schedule(scheduled(state, late), late)
    large = event("tool_call", 1, tool_call_id="c", name="f", value={"q": "x" * 70_000})
    with pytest.raises(TooLarge):
        check_schedule(
            scheduled(folded(start(), large, stop(2)), ReplayTerms(max_rate=5)), ReplayTerms()
        )

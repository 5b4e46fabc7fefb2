"""Timings that were stored in parts are unpacked only on access."""

from __future__ import annotations

from rehydrate.core.text.content import Timing, Timings
from rehydrate.postgres.stored_timings import StoredTimings

TIMINGS = [Timing(3, 1_000), Timing(0, 1_020), Timing(5, 900)]


def stored(*parts: list[Timing]) -> StoredTimings:
    return StoredTimings([Timings(part).packed() for part in parts])


def test_parts_are_unpacked_in_order() -> None:
    timings = stored(TIMINGS[:1], [], TIMINGS[1:])
    assert not timings.unpacked
    assert timings.entries == TIMINGS
    assert timings.unpacked
    assert timings.appended == []


def test_appended_timings_follow_the_stored_ones() -> None:
    timings = stored(TIMINGS)
    timings.append(Timing(1, 2_000))
    assert not timings.unpacked
    assert timings.appended == [Timing(1, 2_000)]
    assert timings.entries == [*TIMINGS, Timing(1, 2_000)]
    timings.append(Timing(2, 3_000))
    assert timings.appended == [Timing(1, 2_000), Timing(2, 3_000)]
    assert Timings(packed=timings.packed()).entries == [*TIMINGS, *timings.appended]


def test_appended_timings_are_packed_with_a_single_part() -> None:
    timings = stored(TIMINGS)
    timings.append(Timing(1, 2_000))
    assert Timings(packed=timings.packed()).entries == [*TIMINGS, Timing(1, 2_000)]


def test_a_single_part_is_returned_as_packed() -> None:
    timings = stored(TIMINGS)
    assert timings.packed() == Timings(TIMINGS).packed()
    assert not timings.unpacked


def test_several_parts_are_packed_as_one() -> None:
    assert stored(TIMINGS[:2], TIMINGS[2:]).packed() == Timings(list(TIMINGS)).packed()


def test_timings_without_parts_are_empty() -> None:
    assert StoredTimings([]).entries == []
    assert Timings(packed=StoredTimings([]).packed()).entries == []


def test_parts_are_counted_without_unpacking() -> None:
    timings = stored(TIMINGS[:1], [], TIMINGS[1:])
    timings.append(Timing(1, 2_000))
    assert (len(timings), timings.unpacked) == (4, False)
    assert len(timings.entries) == len(timings) == 4

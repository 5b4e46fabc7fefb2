"""A tape in pieces is unpacked only when somebody looks."""

from __future__ import annotations

from rehydrate.core.replay.timings import Timing, Timings
from rehydrate.postgres.stored_timings import StoredTimings

TICKS = [Timing(3, 1_000), Timing(0, 1_020), Timing(5, 900)]


def stored(*pieces: list[Timing]) -> StoredTimings:
    return StoredTimings([Timings(piece).packed() for piece in pieces])


def test_pieces_are_one_tape() -> None:
    tape = stored(TICKS[:1], [], TICKS[1:])
    assert not tape.unpacked
    assert tape.entries == TICKS
    assert tape.unpacked
    assert tape.came == []


def test_what_is_appended_is_behind_what_was_stored() -> None:
    tape = stored(TICKS)
    tape.append(Timing(1, 2_000))
    assert not tape.unpacked
    assert tape.came == [Timing(1, 2_000)]
    assert tape.entries == [*TICKS, Timing(1, 2_000)]
    tape.append(Timing(2, 3_000))
    assert tape.came == [Timing(1, 2_000), Timing(2, 3_000)]
    assert Timings(packed=tape.packed()).entries == [*TICKS, *tape.came]


def test_one_piece_that_was_appended_to_is_packed_with_what_came() -> None:
    tape = stored(TICKS)
    tape.append(Timing(1, 2_000))
    assert Timings(packed=tape.packed()).entries == [*TICKS, Timing(1, 2_000)]


def test_one_piece_is_packed_already() -> None:
    tape = stored(TICKS)
    assert tape.packed() == Timings(TICKS).packed()
    assert not tape.unpacked


def test_several_pieces_are_packed_as_one() -> None:
    assert stored(TICKS[:2], TICKS[2:]).packed() == Timings(list(TICKS)).packed()


def test_no_piece_is_no_tick() -> None:
    assert StoredTimings([]).entries == []
    assert Timings(packed=StoredTimings([]).packed()).entries == []


def test_pieces_are_counted_without_being_unpacked() -> None:
    tape = stored(TICKS[:1], [], TICKS[1:])
    tape.append(Timing(1, 2_000))
    assert (len(tape), tape.unpacked) == (4, False)
    assert len(tape.entries) == len(tape) == 4

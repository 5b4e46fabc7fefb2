"""Timings: the lengths and times of events, packed and unpacked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core.replay.timings import Timing, Timings

ticks = st.lists(st.builds(Timing, st.integers(0, 70_000), st.integers(0, 2**45)), max_size=60)


@given(ticks)
def test_timings_are_unpacked_as_they_were_packed(given_ticks):
    assert Timings(packed=Timings(list(given_ticks)).packed()).entries == given_ticks


@pytest.mark.parametrize(
    "tape", [Timings(), Timings([]), Timings(packed=b""), Timings(packed=Timings().packed())]
)
def test_no_timings_are_packed_as_nothing(tape):
    assert tape.entries == []


def test_timings_that_were_unpacked_are_packed_with_the_appended_ones():
    tape = Timings(packed=Timings([Timing(1, 10)]).packed())
    tape.entries.append(Timing(2, 20))
    assert Timings(packed=tape.packed()).entries == [Timing(1, 10), Timing(2, 20)]


def test_timings_that_were_not_unpacked_are_the_same_bytes():
    packed = Timings([Timing(1, 10)]).packed()
    assert Timings(packed=packed).packed() is packed


def test_a_steady_stream_takes_about_two_bytes_an_event():
    steady = [Timing(4 + index % 3, 1_767_225_600_000 + 20 * index) for index in range(2_000)]
    assert len(Timings(steady).packed()) < 2_000 * 2


@given(ticks)
def test_timings_are_counted_without_being_unpacked(given_ticks):
    packed = Timings(packed=Timings(list(given_ticks)).packed())
    assert len(packed) == len(given_ticks)
    assert len(Timings(list(given_ticks))) == len(given_ticks)


def test_a_timing_is_appended_behind_the_stored_ones():
    timings = Timings(packed=Timings([Timing(1, 10)]).packed())
    timings.append(Timing(2, 20))
    assert timings.entries == [Timing(1, 10), Timing(2, 20)]

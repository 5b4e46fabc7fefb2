from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core.pacing import Pace


def done_at(pace, asked_at):
    """When each thing is done that is asked for at one of *asked_at* (in order), as soon as may be."""
    done, now_s = [], 0.0
    for at_s in asked_at:
        now_s = max(now_s, at_s)
        now_s += pace.wait_s(now_s)
        assert pace.wait_s(now_s) == 0
        pace.take(now_s)
        done.append(now_s)
    return done


@given(
    st.integers(1, 200),
    st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=400).map(sorted),
)
def test_no_second_holds_more_than_is_allowed(per_s, asked_at):
    done = done_at(Pace(per_s), asked_at)
    for index, at_s in enumerate(done):
        within = [each for each in done[index:] if each < at_s + 1 - 1e-3]
        assert len(within) <= per_s


def test_a_tenth_may_come_at_once_and_the_rest_is_spread():
    done = done_at(Pace(50), [0.0] * 50)
    assert done[:5] == [0.0] * 5
    gaps = [after - before for before, after in pairwise(done[4:])]
    assert max(gaps) == pytest.approx(1 / 46)
    assert min(gaps) == pytest.approx(1 / 46)


def test_what_was_not_used_is_not_saved_up():
    pace = Pace(50)
    done_at(pace, [0.0])
    assert done_at(pace, [100.0] * 6)[4:] == [100.0, pytest.approx(100.0 + 1 / 46)]


def test_without_a_rate_nothing_waits():
    pace = Pace(0)
    assert done_at(pace, [1.0] * 1000) == [1.0] * 1000
    assert pace.sustained_per_s == 0


@pytest.mark.parametrize("per_s", [0.2, 0.5, 1, 3])
def test_rare_things_are_done_one_at_a_time(per_s):
    done = done_at(Pace(per_s), [0.0] * 3)
    assert done == [0.0, pytest.approx(1 / per_s), pytest.approx(2 / per_s)]


def test_what_costs_more_takes_the_room_of_more():
    pace = Pace(50)
    pace.take(0.0, cost=46.0)
    assert pace.wait_s(0.0) == pytest.approx(1 - 4 / 46)

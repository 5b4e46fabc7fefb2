from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core.rate_limit import CongestionWindow, MinimumLatency, RateLimit


def done_at(pace, asked_at):
    """Return the times of acts that are requested at *asked_at*, each as early as allowed."""
    done, now_s = [], 0.0
    for at_s in asked_at:
        now_s = max(now_s, at_s)
        now_s += pace.wait_s(now_s)
        assert pace.wait_s(now_s) == 0
        pace.spend(now_s)
        done.append(now_s)
    return done


@given(
    st.integers(1, 200),
    st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=400).map(sorted),
)
def test_no_second_holds_more_than_is_allowed(per_s, asked_at):
    done = done_at(RateLimit(per_s), asked_at)
    for index, at_s in enumerate(done):
        within = [each for each in done[index:] if each < at_s + 1 - 1e-3]
        assert len(within) <= per_s


def test_a_burst_is_a_tenth_of_the_rate_and_the_rest_is_spread():
    done = done_at(RateLimit(50), [0.0] * 50)
    assert done[:5] == [0.0] * 5
    gaps = [after - before for before, after in pairwise(done[4:])]
    assert max(gaps) == pytest.approx(1 / 46)
    assert min(gaps) == pytest.approx(1 / 46)


def test_what_was_not_used_is_not_saved_up():
    pace = RateLimit(50)
    done_at(pace, [0.0])
    assert done_at(pace, [100.0] * 6)[4:] == [100.0, pytest.approx(100.0 + 1 / 46)]


def test_without_a_rate_nothing_waits():
    pace = RateLimit(0)
    assert done_at(pace, [1.0] * 1000) == [1.0] * 1000
    assert pace.sustained_per_s == 0


@pytest.mark.parametrize("per_s", [0.2, 0.5, 1, 3])
def test_a_low_rate_allows_no_burst(per_s):
    done = done_at(RateLimit(per_s), [0.0] * 3)
    assert done == [0.0, pytest.approx(1 / per_s), pytest.approx(2 / per_s)]


def test_what_costs_more_takes_the_room_of_more():
    pace = RateLimit(50)
    pace.spend(0.0, cost=46.0)
    assert pace.wait_s(0.0) == pytest.approx(1 - 4 / 46)


def test_the_lowest_latency_expires():
    quickest = MinimumLatency(period_s=10)
    assert quickest.update(0.01, now_s=0.0) == 0.01
    assert quickest.update(0.2, now_s=5.0) == 0.01
    assert quickest.update(0.2, now_s=12.0) == 0.01
    assert quickest.update(0.3, now_s=24.0) == 0.2
    assert quickest.update(0.3, now_s=36.0) == 0.3


def answered_by(server_per_s, window, seconds, senders=1, way_s=0.001):
    """Return the windows of *senders*, and how long their acknowledgements took."""
    windows, quickest = [window() for _ in range(senders)], MinimumLatency()
    free_s, took, under_way = 0.0, [], []
    now_s = 0.0
    while now_s < seconds:
        counts = [sum(each[1] is w for each in under_way) for w in windows]
        for each, count in zip(windows, counts, strict=True):
            for _ in range(each.width - count):
                free_s = max(free_s, now_s) + 1 / server_per_s
                under_way.append((free_s + way_s, each, now_s))
        at_s, each, sent_s = under_way.pop(under_way.index(min(under_way, key=lambda u: u[0])))
        now_s = at_s
        took.append(now_s - sent_s)
        each.answered(took[-1], quickest.update(took[-1], now_s), now_s)
    return windows, took


def test_a_window_grows_back_while_answers_are_quick():
    window = CongestionWindow(16)
    for n in range(10):
        window.answered(1.0, 0.001, n * 10.0)
    assert window.width == 1
    for n in range(150):
        window.answered(0.002, 0.001, 200.0 + n)
    assert window.width == 16


def test_many_senders_do_not_overload_a_slow_receiver():
    _, took = answered_by(1_000, lambda: CongestionWindow(16), 5, senders=20)
    late = sorted(took[len(took) // 2 :])
    assert late[-1] < 0.12  # with windows of 16 each it would be 0.32


def test_a_constant_latency_does_not_shrink_the_window():
    (window,), _ = answered_by(100_000, lambda: CongestionWindow(16), 20, way_s=0.2)
    assert window.width == 16


def test_a_window_never_closes():
    window = CongestionWindow(16)
    for n in range(50):
        window.answered(9.0, 0.001, n * 10.0)
    assert window.width == 1
    assert CongestionWindow(1).width == 1

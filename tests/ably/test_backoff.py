from __future__ import annotations

from rehydrate.ably.backoff import Backoff


def test_delays_double_up_to_the_cap_and_are_reduced_by_up_to_half():
    backoff = Backoff(first_s=1.0, cap_s=6.0)
    for whole_s in (1.0, 2.0, 4.0, 6.0, 6.0):
        assert whole_s / 2 <= backoff.next_s() <= whole_s


def test_clients_that_fail_together_do_not_retry_together():
    one, other = Backoff(1.0, 8.0), Backoff(1.0, 8.0)
    assert [one.next_s() for _ in range(5)] != [other.next_s() for _ in range(5)]


def test_a_reset_starts_from_the_first_delay_again():
    backoff = Backoff(1.0, 64.0)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 1.0

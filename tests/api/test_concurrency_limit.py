from __future__ import annotations

import pytest

from rehydrate.api.concurrency_limit import ConcurrencyLimit
from rehydrate.api.problems import TooMany


def test_one_more_than_the_limit_is_refused_and_leaving_makes_room():
    bound = ConcurrencyLimit(2, "hydrates")
    with bound:
        with bound, pytest.raises(TooMany, match="2 hydrates are under way"), bound:
            raise AssertionError("it was let in")
        with bound:
            pass


def test_whoever_leaves_by_an_error_leaves_too():
    bound = ConcurrencyLimit(1, "hydrates")
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), bound:
            raise ValueError("inside")
    with bound:
        pass


def test_it_is_told_how_many_there_are():
    told = []
    bound = ConcurrencyLimit(2, "hydrates", told.append)
    with bound, bound:
        pass
    assert told == [1, 2, 1, 0]

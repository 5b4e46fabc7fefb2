from __future__ import annotations

import pytest

from rehydrate.api.concurrency_limit import ConcurrencyLimit
from rehydrate.api.problems import TooMany


def test_entering_beyond_the_limit_is_refused_until_a_task_leaves():
    bound = ConcurrencyLimit(2, "hydrates")
    with bound:
        with bound, pytest.raises(TooMany, match="2 hydrates are under way"), bound:
            raise AssertionError("it was let in")
        with bound:
            pass


def test_leaving_by_an_error_frees_the_place():
    bound = ConcurrencyLimit(1, "hydrates")
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), bound:
            raise ValueError("inside")
    with bound:
        pass


def test_changes_of_the_number_are_reported():
    numbers = []
    bound = ConcurrencyLimit(2, "hydrates", numbers.append)
    with bound, bound:
        pass
    assert numbers == [1, 2, 1, 0]

"""Limits of concurrency and of bytes, which refuse at once, and bounded caches."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from rehydrate.limits import AnswerBytes, BoundedCache, ConcurrencyLimit, TooMany, TtlCache


def test_entering_beyond_the_limit_is_refused_until_a_task_leaves():
    bound = ConcurrencyLimit(2, "hydrates")
    with bound:
        with bound, pytest.raises(TooMany, match="2 hydrates are under way"), bound:
            raise AssertionError("it was let in")
        with bound:
            pass


def test_an_owner_may_take_a_quarter_of_a_limit_and_others_the_rest():
    bound = ConcurrencyLimit(80, "streams")
    with ExitStack() as held:
        for _ in range(20):
            held.enter_context(bound.of("a"))
        with pytest.raises(TooMany, match="20 streams of this token"), bound.of("a"):
            raise AssertionError("it was let in")
        for owner in ["b"] * 20 + [None] * 40:  # a backend, without an owner, has no share
            held.enter_context(bound.of(owner))
        with pytest.raises(TooMany, match="80 streams are under way"), bound.of("c"):
            raise AssertionError("it was let in")
    for _ in range(2):
        with bound.of("a"):
            pass
    assert not bound._by_owner, "nothing is kept of those who have left"


def test_a_small_limit_is_not_divided():
    bound = ConcurrencyLimit(8, "hydrates")
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(bound.of("a"))
        with pytest.raises(TooMany, match="8 hydrates are under way"), bound.of("a"):
            raise AssertionError("it was let in")


def test_leaving_by_an_error_frees_the_place():
    bound = ConcurrencyLimit(1, "hydrates")
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), bound:
            raise ValueError("inside")
    with bound:
        pass


def test_the_number_of_tasks_is_counted():
    bound = ConcurrencyLimit(2, "hydrates")
    with bound, bound:
        assert bound.count == 2
    assert bound.count == 0


def test_answers_beyond_the_limit_of_bytes_are_refused_until_one_is_sent():
    sizes = AnswerBytes(1_000_000)
    with sizes.claim() as first, sizes.claim() as second:
        first.hold(600_000)
        with pytest.raises(TooMany, match="too many long answers"):
            second.hold(400_001)
        second.hold(400_000)
        assert sizes.total == 1_000_000
        first.release()
        assert sizes.total == 400_000
        second.hold(1_000_000)
        second.release()
    assert sizes.total == 0


def test_one_answer_alone_may_be_longer_than_the_limit():
    sizes = AnswerBytes(1_000_000)
    with sizes.claim("a") as claim:
        claim.hold(5_000_000)
        with sizes.claim("b") as other, pytest.raises(TooMany):
            other.hold(100_000)
        claim.release()


def test_an_owner_may_take_a_quarter_of_the_bytes():
    sizes = AnswerBytes(1_000_000)
    with sizes.claim("a") as first, sizes.claim("a") as second, sizes.claim("b") as other:
        first.hold(200_000)
        with pytest.raises(TooMany, match="of this token"):
            second.hold(100_000)
        other.hold(200_000)
        first.release()
        second.hold(100_000)
        second.release()
        other.release()
    assert not sizes._by_owner, "nothing is kept of those whose answers were sent"


def test_a_claim_is_released_by_an_error():
    sizes = AnswerBytes(1_000_000)
    for _ in range(3):
        claim = sizes.claim("a")
        claim.hold(900_000)
        with pytest.raises(ValueError, match="inside"), claim:
            raise ValueError("inside")


def test_short_answers_are_not_counted():
    sizes = AnswerBytes(100)
    with sizes.claim("a") as first, sizes.claim("a") as second:
        first.hold(60_000)
        second.hold(60_000)


class TestBoundedCache:
    def test_the_least_recently_used_entry_is_dropped(self):
        cache = BoundedCache(2)
        cache["a"], cache["b"] = 1, 2
        assert cache.get("a") == 1
        cache["c"] = 3
        assert dict(cache.items()) == {"a": 1, "c": 3}
        assert cache.get("b") is None
        assert "b" not in cache

    def test_writing_an_entry_again_counts_as_a_use(self):
        cache = BoundedCache(2)
        cache["a"], cache["b"] = 1, 2
        cache["a"] = 3
        cache["c"] = 4
        assert dict(cache.items()) == {"a": 3, "c": 4}

    def test_a_removed_entry_makes_room(self):
        cache = BoundedCache(1)
        cache["a"] = 1
        assert cache.pop("a") == 1
        assert cache.pop("a") is None
        assert len(cache) == 0


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_an_entry_expires():
    clock = Clock()
    cache = TtlCache(10, clock)
    cache.put(b"a", "A", 160)
    assert cache.get(b"a") == "A"
    clock.now_s = 159.9
    assert cache.get(b"a") == "A"
    clock.now_s = 160
    assert cache.get(b"a") is None
    assert len(cache) == 0


def test_the_least_recently_used_entry_is_evicted():
    cache = TtlCache(2, Clock())
    cache.put(b"a", "A", 200)
    cache.put(b"b", "B", 200)
    assert cache.get(b"a") == "A"
    cache.put(b"c", "C", 200)
    assert (cache.get(b"a"), cache.get(b"b"), cache.get(b"c")) == ("A", None, "C")
    assert len(cache) == 2


def test_a_second_put_replaces_the_value():
    cache = TtlCache(2, Clock())
    cache.put(b"a", False, 200)
    cache.put(b"a", True, 300)
    assert cache.get(b"a") is True
    assert len(cache) == 1


def test_a_false_value_is_not_a_miss():
    cache = TtlCache(2, Clock())
    cache.put(b"a", False, 200)
    assert cache.get(b"a") is False
    assert cache.get(b"b") is None

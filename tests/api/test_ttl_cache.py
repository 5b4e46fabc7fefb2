from __future__ import annotations

from rehydrate.api.ttl_cache import TtlCache


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

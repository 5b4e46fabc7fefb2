from __future__ import annotations

from rehydrate.api.ttl_cache import TtlCache


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_what_is_kept_is_forgotten_when_its_time_is_over():
    clock = Clock()
    kept = TtlCache(10, clock)
    kept.keep(b"a", "A", 160)
    assert kept.get(b"a") == "A"
    clock.now_s = 159.9
    assert kept.get(b"a") == "A"
    clock.now_s = 160
    assert kept.get(b"a") is None
    assert len(kept) == 0


def test_the_one_unused_for_longest_makes_room():
    kept = TtlCache(2, Clock())
    kept.keep(b"a", "A", 200)
    kept.keep(b"b", "B", 200)
    assert kept.get(b"a") == "A"
    kept.keep(b"c", "C", 200)
    assert (kept.get(b"a"), kept.get(b"b"), kept.get(b"c")) == ("A", None, "C")
    assert len(kept) == 2


def test_what_is_kept_again_replaces_what_was_known():
    kept = TtlCache(2, Clock())
    kept.keep(b"a", False, 200)
    kept.keep(b"a", True, 300)
    assert kept.get(b"a") is True
    assert len(kept) == 1


def test_a_no_is_told_from_not_knowing():
    kept = TtlCache(2, Clock())
    kept.keep(b"a", False, 200)
    assert kept.get(b"a") is False
    assert kept.get(b"b") is None

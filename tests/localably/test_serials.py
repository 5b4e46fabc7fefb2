from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localably.serials import SerialClock, channel_serial_of, is_serial, milliseconds_of, moment_of

MOMENTS = st.lists(st.integers(1_700_000_000_000, 1_700_000_000_005), min_size=1, max_size=3000)


@given(MOMENTS)
def test_serials_never_repeat_nor_go_back_even_if_the_clock_does(moments):
    clock = SerialClock("s1")
    serials = [clock.next(ms) for ms in moments]
    assert serials == sorted(set(serials))
    assert all(is_serial(serial) for serial in serials)


def test_more_than_a_thousand_in_one_millisecond_use_the_next():
    clock = SerialClock("s1")
    serials = [clock.next(5) for _ in range(1001)]
    assert [milliseconds_of(s) for s in (serials[0], serials[999], serials[1000])] == [5, 5, 6]


def test_a_message_sorts_directly_after_its_publish_and_before_the_next():
    clock = SerialClock("s1")
    first, second = clock.next(5), clock.next(5)
    assert first < f"{first}:000" < f"{first}:001" < second
    assert channel_serial_of(f"{first}:001") == first
    assert moment_of(first) == "00000000000005-000"


def test_invalid_serials_are_recognised():
    wrong = [
        "",
        "5",
        "2m",
        "x" * 30,
        "01700000000000-000",
        "01700000000000-000@s:0",
        "٠1700000000000-000@s",
    ]
    assert [text for text in wrong if is_serial(text)] == []


def test_skipping_gives_later_serials_only():
    clock = SerialClock("s1")
    clock.skip_to(100)
    assert milliseconds_of(clock.next(5)) > 100

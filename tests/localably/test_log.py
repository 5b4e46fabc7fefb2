"""A channel's log, with a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localably.log import MessageLog, Query
from localably.messages import Message
from localably.serials import SerialClock, milliseconds_of

T0 = 1_700_000_000_000


class Filled:
    def __init__(self, retention_ms=120_000, most_bytes=1 << 20):
        self.now_ms = T0
        self.log = MessageLog(SerialClock("s1"), retention_ms, T0, most_bytes)

    def add(self, *texts, ms=1):
        self.now_ms += ms
        position = self.log.next_serial(self.now_ms)
        for index, text in enumerate(texts):
            self.log.add(a_message(f"{position}:{index:03d}", text), len(text))
        return position

    def change(self, serial, text, *, appended=False, ms=1):
        self.now_ms += ms
        version = f"{self.log.next_serial(self.now_ms)}:000"
        message = a_message(serial, text, version, appended=appended)
        self.log.replace(message, len(text), keep_version=not appended)
        return version.partition(":")[0]

    def page(self, **query):
        return self.log.history(Query(**{"limit": 100, **query}))


def a_message(serial, text, version=None, *, appended=False):
    version = version or serial
    fields = {
        "id": text,
        "data": text,
        "serial": serial,
        "timestamp": milliseconds_of(serial),
        "version": {"serial": version, "timestamp": milliseconds_of(version)},
    }
    return Message(fields, appended=appended)


def texts(messages):
    return [m.fields["data"] for m in messages]


@given(st.integers(0, 40), st.integers(1, 12), st.sampled_from(["backwards", "forwards"]))
def test_pages_give_every_message_once_and_in_order(count, limit, direction):
    filled = Filled()
    for number in range(count):
        filled.add(str(number))
    found, cursor = [], None
    while True:
        page = filled.page(limit=limit, direction=direction, cursor=cursor)
        found += texts(page.messages)
        cursor = page.cursor
        if cursor is None:
            break
    wanted = [str(n) for n in range(count)]
    assert found == (wanted if direction == "forwards" else wanted[::-1])


def test_pages_do_not_change_while_messages_arrive():
    filled = Filled()
    for number in range(6):
        filled.add(str(number))
    first = filled.page(limit=2)
    filled.add("new")
    assert texts(filled.page(limit=2, cursor=first.cursor).messages) == ["3", "2"]


def test_start_and_end_are_inclusive():
    filled = Filled()
    for text in "abc":
        filled.add(text, ms=10)
    assert texts(filled.page(start_ms=T0 + 20).messages) == ["c", "b"]
    assert texts(filled.page(end_ms=T0 + 20).messages) == ["b", "a"]
    assert texts(filled.page(start_ms=T0 + 20, end_ms=T0 + 20).messages) == ["b"]


def test_rtl10b_history_up_to_a_position_includes_its_whole_publish():
    filled = Filled()
    filled.add("a")
    position = filled.add("b", "c")
    filled.add("d")
    assert texts(filled.page(from_serial=position).messages) == ["c", "b", "a"]
    assert texts(filled.page(from_serial=f"{position}:000").messages) == ["b", "a"]


def test_retention_really_deletes():
    filled = Filled(retention_ms=1000)
    for number in range(5000):
        filled.add(str(number), ms=10)
        filled.log.prune(filled.now_ms)
        assert len(filled.log) <= 101
    assert filled.log.size_bytes < 101 * 700
    filled.log.prune(filled.now_ms + 1000)
    assert len(filled.log) == 0
    assert filled.log.size_bytes == 0


def test_memory_is_bounded_and_the_oldest_is_dropped_first():
    filled = Filled(most_bytes=10_000)
    for number in range(100):
        filled.add(f"{number:0500d}")
        filled.log.prune(filled.now_ms)
        assert filled.log.size_bytes <= 10_000
    assert texts(filled.page(limit=1).messages) == [f"{99:0500d}"]


def test_a_position_before_the_log_is_90003_and_returns_the_whole_log():
    filled = Filled(retention_ms=1000)
    position = filled.add("a")
    filled.add("b", ms=1500)
    filled.add("c", ms=100)
    filled.log.prune(filled.now_ms)
    backlog = filled.log.after(position, 100)
    assert backlog.error is None, "all after it is still held"
    filled.add("d", ms=950)
    filled.log.prune(filled.now_ms)
    backlog = filled.log.after(position, 100)
    assert backlog.error.code == 90003
    assert [texts(group) for _, group in backlog.groups] == [["c"], ["d"]]
    assert not filled.log.holds_position(position, 0)


def test_a_position_of_the_future_is_90005_and_nonsense_is_90003():
    filled = Filled()
    filled.add("a")
    ahead = SerialClock("s2").next(filled.now_ms + 5)
    assert filled.log.after(ahead, 100).error.code == 90005
    assert filled.log.after("nonsense", 100).error.code == 90003


@given(st.integers(0, 30), st.data())
def test_messages_after_a_position_are_all_that_were_published_after_it(count, data):
    filled = Filled()
    positions = [filled.log.head] + [filled.add(str(n), f"{n}b") for n in range(count)]
    place = data.draw(st.integers(0, count))
    backlog = filled.log.after(positions[place], 100)
    wanted = [[str(n), f"{n}b"] for n in range(place, count)]
    assert [texts(group) for _, group in backlog.groups] == wanted
    assert backlog.error is None


@given(st.integers(0, 30), st.integers(0, 35))
def test_backlog_and_history_below_it_are_the_whole_log_once(count, wanted):
    filled = Filled()
    for number in range(count):
        filled.add(str(number))
    backlog = filled.log.newest(wanted, None, 100)
    rewound = [text for _, group in backlog.groups for text in texts(group)]
    below = texts(filled.page(from_serial=backlog.position).messages)[::-1]
    assert below + rewound == [str(n) for n in range(count)]
    assert len(rewound) == min(wanted, count)


def test_the_limit_of_a_rewind_is_reported_only_if_it_cut_messages_off():
    filled = Filled()
    for number in range(10):
        filled.add(str(number))
    assert filled.log.newest(5, None, 5).error is None
    assert filled.log.newest(10, None, 10).error is None
    assert filled.log.newest(6, None, 5).error.code == 90004
    assert filled.log.newest(None, T0, 5).error.code == 90004


def test_a_changed_message_keeps_its_place_in_history_and_moves_in_a_backlog():
    filled = Filled()
    first = filled.add("a") + ":000"
    position = filled.add("b")
    filled.change(first, "A")
    assert texts(filled.page().messages) == ["b", "A"]
    assert [texts(g) for _, g in filled.log.after(position, 100).groups] == [["A"]]
    assert texts(filled.log.versions(first)) == ["a", "A"]


def test_consecutive_appends_are_one_version():
    filled = Filled()
    first = filled.add("a") + ":000"
    log = filled.log
    for text in ("ab", "abc"):
        filled.now_ms += 1
        version = f"{log.next_serial(filled.now_ms)}:000"
        before = log.find(first)
        message = a_message(first, text, version, appended=True)
        log.replace(message, len(text), keep_version=not before.appended)
    assert texts(log.versions(first)) == ["a", "abc"]


def test_an_id_is_known_for_two_minutes_whether_its_message_is_kept_or_not():
    filled = Filled(retention_ms=1000)
    log, now_ms = filled.log, filled.now_ms
    log.remember("a", "serial", now_ms)
    log.prune(now_ms + 1000)
    assert log.published_as("a", now_ms + 120_000) == "serial"
    assert log.published_as("a", now_ms + 120_001) is None
    log.remember("b", "later", now_ms + 120_001)
    assert len(log._ids) == 1


def test_versions_and_former_states_count_towards_the_memory():
    filled = Filled(retention_ms=10**9, most_bytes=1 << 30)
    position = filled.add("x" * 1000)
    serial = f"{position}:000"
    before = filled.log.size_bytes
    for number in range(100):
        filled.change(serial, "y" * 1000, appended=number % 2 == 0)
    assert filled.log.size_bytes - before > 50 * 1000
    held = sum(len(version.fields["data"]) for version in filled.log.versions(serial))
    assert filled.log.size_bytes >= held
    filled.log.keep_state(filled.log.find(serial))
    assert filled.log.size_bytes >= held + 1000
    filled.log.clear()
    assert filled.log.size_bytes == 0


def test_continuity_ends_with_the_live_window_though_history_is_kept():
    filled = Filled(retention_ms=10**9)
    position = filled.add("a")
    assert filled.log.after(position, 10, filled.now_ms).error is None  # nothing was missed
    filled.add("b", ms=10)
    since_ms = filled.now_ms
    filled.add("c", ms=10)
    assert texts_after(filled, position, since_ms) == (None, ["b", "c"])
    assert filled.log.holds_position(position, since_ms)
    assert texts_after(filled, position, since_ms + 1) == (90003, ["c"])
    assert not filled.log.holds_position(position, since_ms + 1)
    assert texts_after(filled, position, None) == (None, ["b", "c"])


def texts_after(filled, position, since_ms):
    found = filled.log.after(position, 10, since_ms)
    error = None if found.error is None else found.error.code
    return error, [text for _, group in found.groups for text in texts(group)]


def test_lagging_history_shows_the_earlier_state():
    filled = Filled()
    first = filled.add("a", ms=10) + ":000"
    filled.change(first, "A", ms=10)
    filled.add("b", ms=10)
    assert texts(filled.page(visible_ms=T0 + 10).messages) == ["a"]
    assert texts(filled.page(visible_ms=T0 + 20).messages) == ["A"]
    assert texts(filled.page(visible_ms=T0 + 5).messages) == []


def test_a_restored_log_continues_at_its_position():
    filled = Filled()
    filled.add("a")
    position = filled.add("b")
    kept = [(filled.log.find(s), 1) for s in sorted(filled.log._by_serial)]
    log = MessageLog(SerialClock("s2"), 120_000, T0)
    log.restore(kept, None, T0 + 5)
    assert texts(log.history(Query(10)).messages) == ["b", "a"]
    assert log.after(position, 10).error is None
    assert log.next_serial(T0) > position


@pytest.mark.parametrize("gone", [True, False])
def test_clearing_drops_everything_and_reports_it(gone):
    filled = Filled()
    position = filled.add("a")
    later = filled.add("b")
    filled.log.clear()
    assert filled.page().messages == []
    error = filled.log.after(position if gone else later, 10).error
    assert (error.code if error else None) == (90003 if gone else None)

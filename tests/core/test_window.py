"""The seam: watermarks, windows of history, lost intervals, and what is excluded."""

from __future__ import annotations

import pytest

from core.builders import BEGAN_MS, event, published, serial, start, stop, timeline_of, token
from core.growing import append as append_to
from core.growing import at, create, full
from rehydrate.core import window as window_module
from rehydrate.core.codecs import decode
from rehydrate.core.event import Event, Version
from rehydrate.core.fold import Outcome
from rehydrate.core.positions import HISTORY_LAG_MS, MARGIN_MS
from rehydrate.core.text.versioned_messages import VersionedHeader
from rehydrate.core.window import (
    REWIND_REACH_MS,
    ErasedStream,
    ExclusionRule,
    Exclusions,
    LostInterval,
    Tombstone,
    Watermark,
    Window,
    advanced,
    erased_mark,
    may_need_read,
    missed,
    needs_no_read,
    outside,
    read_again_from,
    read_from_ms,
    since_recorded,
    spanned,
)

NOW_MS = BEGAN_MS + 1_000_000
RETENTION_MS = 120_000


class TestWindow:
    def test_a_window_has_the_oldest_and_newest_of_all_pages(self):
        window = Window(NOW_MS)
        window.add_page([])
        assert (window.count, window.oldest_ms, window.newest_serial) == (0, None, None)
        window.add_page([published("token", at_s=4), published("token", at_s=3)])
        window.add_page([published("token", at_s=5), published("token", at_s=9, serials=False)])
        assert window.count == 4
        assert (window.oldest_ms, window.newest_ms) == (BEGAN_MS + 3000, BEGAN_MS + 9000)
        assert window.newest_serial == serial(BEGAN_MS + 5000)

    def test_a_reader_may_rewind_to_a_serial_older_than_the_margin_that_ably_still_has(self):
        window = Window(NOW_MS)
        second = lambda ms: published("token", at_s=(ms - BEGAN_MS) / 1000)  # noqa: E731 - a key
        window.add_page([second(NOW_MS - REWIND_REACH_MS - 1), second(NOW_MS - MARGIN_MS + 1)])
        assert window.rewind_from is None
        window.add_page([second(NOW_MS - REWIND_REACH_MS), second(NOW_MS - MARGIN_MS)])
        assert window.rewind_from == serial(NOW_MS - MARGIN_MS)

    def test_a_rewind_begins_with_a_message_that_the_answer_contains(self):
        window = Window(NOW_MS)
        at_s = (NOW_MS - BEGAN_MS) / 1000
        window.add_page([published("token", at_s=at_s - 30)])
        assert window.rewind_from is None
        window.add_page([published("token", at_s=at_s - 20)])
        assert window.rewind_from == serial(NOW_MS - 30_000)


def test_history_is_read_again_from_the_margin_before_the_watermark():
    assert read_from_ms(None) is None
    assert read_from_ms(Watermark(None, NOW_MS, NOW_MS)) == NOW_MS - MARGIN_MS
    assert read_from_ms(Watermark(None, 3, 3)) == 0


@pytest.mark.parametrize(
    ("watermark", "until", "expected"),
    [
        (None, serial(NOW_MS), False),
        (Watermark("s", NOW_MS, NOW_MS), None, False),
        (Watermark("s", NOW_MS, NOW_MS), "no time in it", False),
        (Watermark("s", NOW_MS, NOW_MS), serial(NOW_MS - MARGIN_MS + 1), False),
        (Watermark("s", NOW_MS, NOW_MS), serial(NOW_MS - MARGIN_MS), True),
        (Watermark(serial(NOW_MS), NOW_MS, 0), serial(NOW_MS - MARGIN_MS), False),
    ],
)
def test_the_store_alone_answers_if_it_was_read_a_margin_after_until(watermark, until, expected):
    assert needs_no_read(watermark, until) is expected


def window_from(oldest_ms):
    window = Window(NOW_MS)
    if oldest_ms is not None:
        window.add_page([published("token", at_s=(oldest_ms - BEGAN_MS) / 1000)])
    return window


EDGE_MS = NOW_MS - RETENTION_MS


@pytest.mark.parametrize(
    ("watermark", "created_ms", "oldest_ms", "hole"),
    [
        # history showed a message at the watermark
        (Watermark("s", EDGE_MS + 5, 0), 0, EDGE_MS + 5, None),
        # the last complete read is so recent that everything since is retained
        (Watermark("s", 0, EDGE_MS + HISTORY_LAG_MS), 0, NOW_MS, None),
        (Watermark("s", 0, NOW_MS), 0, None, None),
        # the lag counts: a message of that time may have become visible later, and expired
        (
            Watermark("s", 0, EDGE_MS + HISTORY_LAG_MS - 1),
            0,
            NOW_MS,
            LostInterval(EDGE_MS - 1, NOW_MS),
        ),
        # nothing was read between them
        (Watermark("s", 50_000, 60_000), 0, NOW_MS - 5, LostInterval(58_000, NOW_MS - 5)),
        (Watermark("s", 50_000, 1_000), 0, None, LostInterval(0, NOW_MS)),
        # a conversation without a watermark was last whole when it was created
        (None, EDGE_MS + HISTORY_LAG_MS, NOW_MS, None),
        (None, EDGE_MS + HISTORY_LAG_MS - 1, NOW_MS, LostInterval(EDGE_MS - 1, NOW_MS)),
        (None, 10_000, NOW_MS, LostInterval(8_000, NOW_MS)),
        (None, EDGE_MS - 10_000, EDGE_MS - 10_000, None),
        # one without a row is whole unless its history begins at the edge of retention
        (None, None, EDGE_MS + MARGIN_MS + 1, None),
        (None, None, None, None),
        (None, None, EDGE_MS + MARGIN_MS, LostInterval(0, EDGE_MS + MARGIN_MS)),
    ],
)
def test_windows_meet_or_the_interval_between_them_is_lost(watermark, created_ms, oldest_ms, hole):
    assert missed(watermark, created_ms, window_from(oldest_ms), RETENTION_MS) == hole


def test_a_watermark_never_goes_back():
    old = Watermark(serial(NOW_MS), NOW_MS, NOW_MS + 1)
    assert advanced(old, window_from(BEGAN_MS), at_end=True) == old


def test_a_watermark_moves_to_the_newest_message_and_at_the_end_to_the_time_of_reading():
    old = Watermark(serial(5), 5, 6)
    newest_ms = NOW_MS - 10
    assert advanced(old, window_from(newest_ms), at_end=False) == (serial(newest_ms), newest_ms, 6)
    assert advanced(old, window_from(newest_ms), at_end=True) == (
        serial(newest_ms),
        newest_ms,
        NOW_MS,
    )


def test_the_first_watermark_of_a_silent_channel_is_the_time_of_reading():
    assert advanced(None, window_from(None), at_end=True) == (None, NOW_MS, NOW_MS)
    assert advanced(Watermark(None, 5, 6), window_from(None), at_end=True) == (None, 5, NOW_MS)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (None, True),
        ("no time in it", True),
        (serial(NOW_MS - MARGIN_MS + 1), True),
        (serial(NOW_MS - MARGIN_MS), False),
    ],
)
def test_history_may_be_needed_for_a_recent_attach_point(until, expected):
    assert may_need_read(until, NOW_MS) is expected


def test_lost_intervals_are_spanned_from_the_first_to_the_last():
    assert spanned() is None
    assert spanned(None, None) is None
    assert spanned(LostInterval(5, 6), None, LostInterval(1, 2)) == LostInterval(1, 6)


@pytest.mark.parametrize(
    ("created_ms", "kept"),
    [
        (NOW_MS - 500, True),  # created before the newest message: the next read begins there
        (EDGE_MS, True),  # at the edge of retention, still shown
        (EDGE_MS - 1, False),  # expired: no read can begin there
        (NOW_MS - 10, False),  # it is the newest message itself
    ],
)
def test_the_watermark_waits_for_a_message_that_may_still_grow(created_ms, kept):
    newest_ms = NOW_MS - 10
    growing = VersionedHeader(serial(created_ms), -2, serial(created_ms), created_ms)
    moved = advanced(
        None, window_from(newest_ms), at_end=True, growing=growing, retention_ms=RETENTION_MS
    )
    at_ms = created_ms if kept else newest_ms
    assert moved == (serial(at_ms), at_ms, NOW_MS)


def test_a_growing_message_of_the_newest_time_does_not_lower_the_serial():
    newest_ms = NOW_MS - 10
    growing = VersionedHeader(f"{newest_ms:014d}-000@r:000", -2, "v", newest_ms)
    moved = advanced(None, window_from(newest_ms), at_end=True, growing=growing)
    assert moved.serial == serial(newest_ms)


@pytest.mark.parametrize(
    "old",
    [
        Event("token", "r", id="a", timestamp_ms=BEGAN_MS, text="a"),
        Event("token", None, id="a", timestamp_ms=BEGAN_MS, text="a", seq=1),
        Event("token", None, serial=serial(BEGAN_MS), id="a", timestamp_ms=BEGAN_MS, text="a"),
    ],
    ids=["neither seq nor serial", "anonymous, with a seq", "anonymous, with a serial"],
)
def test_what_its_id_identifies_is_not_read_again_from_before_the_margin(old):
    named = old._replace(message_id="r", serial=serial(BEGAN_MS))
    kept = [
        named,
        named._replace(seq=1, serial=None),
        named._replace(message_id=None, version=Version("v")),
        Event.prompt("p", "hi", id="p", timestamp_ms=BEGAN_MS),
        old._replace(timestamp_ms=BEGAN_MS + 1_000),
    ]
    watermark = Watermark(None, BEGAN_MS + 1_000 + MARGIN_MS, BEGAN_MS)
    assert since_recorded([old, *kept], watermark) == kept
    assert since_recorded(kept, watermark) is kept
    assert since_recorded([old], None) == [old]


class TestTombstone:
    def test_it_covers_what_is_at_or_before_it_by_serial_else_by_time(self):
        event = Event("token", "r", serial=serial(BEGAN_MS), text="t", timestamp_ms=BEGAN_MS)
        later = event._replace(serial=serial(BEGAN_MS + 1), timestamp_ms=BEGAN_MS + 1)
        placed, timed = Tombstone(serial(BEGAN_MS), BEGAN_MS + 9), Tombstone(None, BEGAN_MS)
        for stone in (placed, timed):
            assert stone.covers(event)
            assert not stone.covers(later)

    def test_a_replay_of_what_was_erased_is_covered(self):
        stone = Tombstone(None, BEGAN_MS, frozenset({erased_mark("a")}))
        late = Event("token", "x", seq=1, text="t", timestamp_ms=BEGAN_MS + 1, replay_of="a")
        assert stone.covers(late)
        assert not stone.covers(late._replace(replay_of="b"))

    def test_the_answer_to_an_erased_prompt_is_covered(self):
        stone = Tombstone(None, BEGAN_MS, frozenset({erased_mark("p")}))
        begins = Event("start", "r", prompt_id="p", timestamp_ms=BEGAN_MS + 1)
        assert stone.covers(begins)
        assert not stone.covers(begins._replace(prompt_id="q"))

    def test_a_mark_does_not_show_what_it_marks(self):
        assert "secret" not in erased_mark("secret")
        assert erased_mark("\ud83d") != erased_mark("a")


@pytest.mark.parametrize(
    ("covered", "left"),
    [
        (None, [(10, 20), (30, 40)]),
        (LostInterval(0, 5), [(10, 20), (30, 40)]),
        (LostInterval(11, 50), [(10, 20)]),
        (LostInterval(10, 39), [(30, 40)]),
        (LostInterval(10, 40), []),
    ],
)
def test_an_interval_is_lost_until_a_read_covers_all_of_it(covered, left):
    assert outside([LostInterval(10, 20), LostInterval(30, 40)], covered) == tuple(left)


def test_history_is_read_again_from_the_oldest_message_that_may_grow():
    (open_, ended) = (
        timeline_of(create(3, "a")).messages["r"],
        timeline_of(full(1, 2, "b", done=True)).messages["r"],
    )
    assert read_again_from([open_, ended], BEGAN_MS + 60_000).serial == at(3)
    assert read_again_from([ended], BEGAN_MS + 60_000) is None
    assert read_again_from([ended], BEGAN_MS + 3_000).serial == at(1)


AT_1_S = Tombstone(None, BEGAN_MS + 1_000)


def outcomes(rule, *events, known=()):
    return [rule.outcome_of(each, known) for each in events]


class TestAgents:
    RULE = ExclusionRule(frozenset({"bot", "aid"}))

    def test_only_agents_may_publish_responses(self):
        strange, own = token(1, "x", client_id="ann"), token(1, "a", client_id="bot")
        assert outcomes(self.RULE, strange, own, token(1, "x")) == [
            Outcome.FOREIGN,
            None,
            Outcome.FOREIGN,
        ]

    def test_anyone_may_publish_prompts(self):
        assert outcomes(self.RULE, event("prompt", None, "hi", client_id="ann")) == [None]

    def test_where_none_are_named_anyone_may_publish_responses(self):
        assert outcomes(ExclusionRule(), token(1, "x", client_id="ann")) == [None]

    def test_readers_get_their_names_in_order(self):
        assert self.RULE.exclusions == Exclusions(("aid", "bot"))


class TestErased:
    def test_the_rest_of_a_response_is_erased_if_its_beginning_is(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        events = start(), token(1, "a"), token(2, "b"), stop(3)
        assert outcomes(rule, *events) == [Outcome.OLD] * 4
        assert rule.erased == {"r"}
        assert rule.exclusions == Exclusions((), BEGAN_MS + 1_000, ("r",))

    def test_what_only_its_time_erases_is_not_named_to_readers(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        assert outcomes(rule, start(), token(1, "a", message_id=None)) == [Outcome.OLD] * 2
        assert (rule.erased, rule.exclusions.erased_ids) == ({"r"}, ())

    def test_a_message_of_later_is_not_erased_by_an_old_event(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        assert outcomes(rule, start(), known={"r"}) == [Outcome.OLD]
        assert (outcomes(rule, token(2, "b")), rule.erased) == ([None], set())

    def test_the_answer_to_an_erased_prompt_is_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        prompt = event("prompt", None, "hi", at_s=0, message_id="p")
        assert (
            outcomes(rule, prompt, start(at_s=3, prompt_id="p"), token(4, "x")) == [Outcome.OLD] * 3
        )
        assert rule.exclusions.erased_ids == ("r",)

    def test_a_replay_of_a_message_that_an_event_showed_as_erased_is_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        replayed = start(at_s=3, message_id="y", replay_of="r")
        assert outcomes(rule, start(), replayed) == [Outcome.OLD] * 2

    def test_an_anonymous_answer_to_a_prompt_that_an_event_showed_as_erased_is_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        prompt = event("prompt", None, "hi", at_s=0, message_id="p")
        answered = start(at_s=3, message_id=None, prompt_id="p")
        assert outcomes(rule, prompt, answered) == [Outcome.OLD] * 2

    def test_readers_are_told_of_a_bounded_number_of_messages(self, monkeypatch):
        monkeypatch.setattr(window_module, "MAX_ERASED_IDS", 1)
        rule = ExclusionRule(tombstone=AT_1_S._replace(erased=frozenset(map(erased_mark, "rs"))))
        assert outcomes(rule, token(2, "a"), token(2, "a", message_id="s")) == [Outcome.OLD] * 2
        assert (rule.erased, rule.exclusions.erased_ids) == ({"r", "s"}, ("r",))

    def test_a_reader_drops_the_same_events(self):
        rule = ExclusionRule(tombstone=AT_1_S._replace(erased=frozenset({erased_mark("r")})))
        assert outcomes(rule, token(5, "x")) == [Outcome.OLD]
        of_reader = rule.exclusions.rule
        assert outcomes(of_reader, token(6, "x"), start(message_id="s")) == [Outcome.OLD] * 2
        assert outcomes(of_reader, start(message_id="n", at_s=3)) == [None]
        assert outcomes(Exclusions().rule, start()) == [None]


def anonymous(kind, at_s, **fields):
    return event(kind, None, "x" if kind == "token" else None, at_s=at_s, message_id=None, **fields)


class TestErasedStream:
    OPEN = AT_1_S._replace(stream=ErasedStream(serial(BEGAN_MS), is_open=True))

    @pytest.mark.parametrize("serials", [True, False])
    def test_the_rest_is_erased_until_its_stop_and_whatever_is_read_again(self, serials):
        rule = ExclusionRule(tombstone=self.OPEN)
        rest = [
            anonymous(kind, n, serials=serials)
            for n, kind in enumerate(["token"] * 3 + ["stop"], 2)
        ]
        assert outcomes(rule, *rest) == [Outcome.OLD] * 4
        assert not rule.stream.is_open
        assert outcomes(rule, anonymous("token", 7), *rest) == [None, *[Outcome.OLD] * 4]

    def test_the_rest_is_erased_until_another_start(self):
        rule = ExclusionRule(tombstone=self.OPEN)
        events = anonymous("token", 2), anonymous("start", 3), anonymous("token", 4)
        assert outcomes(rule, *events) == [Outcome.OLD, None, None]
        assert outcomes(rule, anonymous("start", 1.5)) == [None]

    def test_a_start_begins_a_message_where_no_stream_was_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        assert outcomes(rule, anonymous("start", 3), anonymous("token", 4)) == [None, None]
        assert rule.stream is None

    def test_erased_events_show_that_their_stream_is_open(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        events = anonymous("start", 0), anonymous("token", 1), anonymous("token", 2)
        assert outcomes(rule, *events) == [Outcome.OLD] * 3
        assert rule.stream == ErasedStream(serial(BEGAN_MS + 2_000), is_open=True)

    def test_erased_events_show_that_their_stream_has_ended(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        events = anonymous("token", 0), anonymous("stop", 1), anonymous("token", 2)
        assert outcomes(rule, *events) == [Outcome.OLD, Outcome.OLD, None]

    def test_cancels_and_replays_are_no_events_of_it(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        others = (
            anonymous("cancel", 0),
            anonymous("token", 1, replay_of="q"),
            anonymous("cancel", 3),
        )
        assert (outcomes(rule, *others), rule.stream) == ([Outcome.OLD, Outcome.OLD, None], None)

    def test_a_version_that_names_no_message_is_erased_by_its_time(self):
        rule = ExclusionRule(tombstone=self.OPEN)
        append = decode(append_to(1, 2, "x"))._replace(message_id=None)
        assert outcomes(rule, append._replace(timestamp_ms=BEGAN_MS + 5_000)) == [None]
        assert outcomes(rule, append._replace(timestamp_ms=BEGAN_MS)) == [Outcome.OLD]

"""Which anonymous message an event belongs to, whatever else is in memory."""

from __future__ import annotations

from itertools import permutations

import pytest

from core.builders import BEGAN_MS, published, serial, text_of, timeline_of
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.positions import insertion_position
from rehydrate.core.timeline import (
    FORGOTTEN,
    AnonymousMessages,
    Timeline,
    names_of,
    reach_back,
)


def at(second, kind="token", id_=None, *, serials=True, **fields):
    at_ms = BEGAN_MS + round(second * 1000)
    place = serial(at_ms) if serials else None
    text = "x" if kind == "token" else None
    id_ = f"{kind}{second}" if id_ is None else id_
    return Event(kind, None, serial=place, id=id_, timestamp_ms=at_ms, text=text, **fields)


def message(*events):
    """Return the anonymous message of these events."""
    state = MessageState(events[0].id)
    state.anonymous = True
    state.place(events[0].serial or insertion_position(events[0].timestamp_ms, 0))
    for event in events:
        fold(state, event)
    return state


def whole(first, last, *, serials=True):
    return message(
        at(first, "start", serials=serials),
        at(first + 0.5, serials=serials),
        at(last, "stop", serials=serials),
    )


def known(*states):
    messages = AnonymousMessages()
    for state in states:
        messages.add(state)
    return messages


class TestFind:
    def test_the_first_event_begins_a_message(self):
        assert known().find(at(1)) is None
        assert not known()

    def test_an_event_belongs_to_the_newest_message_that_began_before_it(self):
        first, second = message(at(1, "start")), message(at(5, "start"))
        messages = known(second, first)
        assert messages
        assert messages.find(at(3)) is first
        assert messages.find(at(6)) is second

    def test_after_an_end_and_at_a_start_another_message_begins(self):
        ended, streaming = whole(1, 3), message(at(10, "start"))
        messages = known(ended, streaming)
        assert messages.find(at(4)) is None
        assert messages.find(at(2)) is ended
        assert messages.find(at(11, "start")) is None
        assert messages.find(at(11)) is streaming

    def test_numbered_content_does_not_continue_content_without_seqs_nor_the_reverse(self):
        bare = message(at(1, "start"), at(2))
        numbered = message(at(1, "start", seq=0), at(2, seq=1))
        assert known(bare).find(at(3, seq=1)) is None
        assert known(bare).find(at(3, "stop", seq=1)) is bare
        assert known(numbered).find(at(3)) is None
        assert known(numbered).find(at(3, seq=2)) is numbered
        empty = message(at(1, "start"))
        assert known(empty).find(at(3, seq=1)) is empty

    def test_an_id_that_was_seen_decides_within_the_margin_of_the_end(self):
        ended, streaming = whole(1, 3), message(at(3.5, "start"))
        messages = known(ended, streaming)
        assert messages.find(at(7.9, id_="token1.5")) is ended
        assert messages.find(at(7.9, "start", "start1")) is ended
        assert messages.find(at(8.1, id_="token1.5")) is streaming
        assert messages.find(at(60, id_="start3.5")) is streaming

    def test_an_id_of_an_end_without_a_time_always_decides(self):
        ended = whole(1, 3)
        ended.finished_ms = None
        assert known(ended).find(at(60, id_="start1")) is ended
        assert known(ended).find(at(60, id_="start1", serials=False)) is ended

    def test_an_id_does_not_decide_far_from_its_place(self):
        first, second = message(at(1, "start")), message(at(5, "start"))
        messages = known(first, second)
        assert messages.find(at(14, id_="start1")) is first
        assert messages.find(at(60, id_="start1")) is second

    def test_an_event_without_an_id_goes_by_its_place(self):
        streaming = message(at(1, "start"))
        event = at(2)._replace(id=None)
        assert known(streaming).find(event) is streaming

    def test_an_event_older_than_all_is_of_none_unless_all_are_known_and_it_starts_one(self):
        messages = known(message(at(5, "start")))
        assert messages.find(at(4)) is FORGOTTEN
        assert messages.find(at(4, "start")) is None
        messages.complete_from = serial(BEGAN_MS)
        assert messages.find(at(4, "start")) is FORGOTTEN

    def test_a_start_that_comes_after_its_own_text_begins_nothing(self):
        assert known(message(at(5))).find(at(4, "start")) is FORGOTTEN
        assert known(whole(1, 2), message(at(5))).find(at(4, "start")) is FORGOTTEN

    def test_without_serials_the_newest_message_continues(self):
        first, second = whole(1, 3, serials=False), message(at(5, "start", serials=False))
        messages = known(first, second)
        assert messages.find(at(6, serials=False)) is second
        assert messages.find(at(6, "start", serials=False)) is None
        assert known(first).find(at(4, serials=False)) is None

    def test_without_serials_what_is_older_than_the_ids_that_are_kept_was_seen(self):
        ended = whole(1, 20, serials=False)
        assert known(ended).find(at(14, serials=False)) is FORGOTTEN
        streaming = message(at(30, "start", serials=False))
        assert known(ended, streaming).find(at(24, serials=False)) is FORGOTTEN
        lasting = message(at(30, "start", serials=False), at(40, serials=False))
        assert known(lasting).find(at(34, "start", serials=False)) is FORGOTTEN
        assert known(lasting).find(at(35, "start", serials=False)) is None
        odd = message(at(30, "start")._replace(serial="odd"))
        assert known(odd).find(at(1, serials=False)) is odd

    def test_a_message_that_is_added_again_replaces_itself(self):
        old, new = message(at(1, "start")), message(at(1, "start"))
        messages = known(old)
        messages.add(new)
        assert messages.find(at(2)) is new


class TestReach:
    def test_it_reaches_back_two_margins(self):
        assert reach_back(at(12)) == reach_back(at(12, serials=False))
        assert reach_back(at(12)) == insertion_position(BEGAN_MS + 2_000, 0)
        assert reach_back(at(12)._replace(serial="odd")) == "odd"
        early = Event("token", None, id="x", timestamp_ms=1, text="x")
        assert reach_back(early) == insertion_position(0, 0)

    def test_all_are_known_until_it_is_said_otherwise(self):
        messages = known(whole(1, 3), whole(20, 22))
        assert messages.reaches(serial(BEGAN_MS))
        messages.complete_from = None
        assert not messages.reaches(serial(BEGAN_MS + 30_000))
        messages.complete_from = serial(BEGAN_MS + 10_000)
        assert messages.reaches(serial(BEGAN_MS + 30_000))
        assert not messages.reaches(serial(BEGAN_MS + 5_000))
        assert not messages.reaches(serial(BEGAN_MS))

    def test_a_lookup_extends_what_is_known(self):
        messages = known(whole(1, 3), whole(20, 22))
        messages.complete_from = None
        messages.looked_up(serial(BEGAN_MS + 30_000))
        assert messages.complete_from == serial(BEGAN_MS + 20_000)
        messages.looked_up(serial(BEGAN_MS + 40_000))
        assert messages.complete_from == serial(BEGAN_MS + 20_000)
        messages.looked_up(serial(BEGAN_MS))
        assert messages.complete_from == ""


class TestNames:
    @pytest.mark.parametrize("odd", ["", "a\x00", "x" * 300])
    def test_the_id_comes_first_then_the_serial_or_the_time(self, odd):
        assert names_of(at(1, id_="m")) == ["m", serial(BEGAN_MS + 1_000)]
        assert names_of(at(1, id_=odd)) == [serial(BEGAN_MS + 1_000)]
        inserted = insertion_position(BEGAN_MS + 1_000, 0)
        assert names_of(at(1, id_="m", serials=False)) == ["m", inserted]
        assert names_of(at(1, id_=odd, serials=False)) == []

    def test_a_place_is_after_all_others(self):
        messages = known()
        assert messages.place(BEGAN_MS, 7) == insertion_position(BEGAN_MS, 7)
        messages.add(message(at(0, "start", serials=False)))
        assert messages.place(BEGAN_MS, 1) == insertion_position(BEGAN_MS, 1)
        messages.add(message(at(9, "start", serials=False)))
        later = insertion_position(BEGAN_MS + 9_000, 0)
        assert messages.place(BEGAN_MS + 9_000, 0) == f"{later}+"


class TestLookup:
    def test_a_start_that_named_no_message_is_asked_for_again(self):
        """Its message has another id, since this one is taken, and may forget it while folding."""
        start = at(1, "start", "taken")
        state = message(start)
        state.id = start.serial  # as it is named if "taken" is the id of a stored message
        timeline = Timeline([state])
        assert timeline.find(start) is state
        assert timeline.lookup([start]).ids == {"taken"}

    def test_a_start_whose_message_has_its_id_is_not_asked_for(self):
        start = at(1, "start", "own")
        assert Timeline([message(start)]).lookup([start, at(2)]).is_empty


def test_one_id_on_two_seqs_of_an_anonymous_message_is_two_events():
    said = [
        published("start", at_s=0, seq=0),
        published("token", "a", at_s=1, seq=1, id_="x"),
        published("token", "b", at_s=2, seq=2, id_="x"),
        published("token", "c", at_s=3, seq=3),
    ]
    for log in permutations(said[1:]):
        (state,) = timeline_of(said[0], *log, *said).messages.values()
        assert (text_of(state), state.gaps(), state.exact) == ("abc", [], True)

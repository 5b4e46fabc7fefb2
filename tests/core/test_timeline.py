"""A timeline: the messages of one conversation, event by event."""

from __future__ import annotations

import pytest

from core.builders import (
    BEGAN_MS,
    event,
    folded,
    published,
    serial,
    start,
    stop,
    text_of,
    timeline_of,
    token,
)
from core.growing import at, create, full
from rehydrate.core import timeline as module
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import Event, Version
from rehydrate.core.fold import MessageState, Outcome
from rehydrate.core.timeline import Lookup, Timeline, ignored, names_of, reach_back
from rehydrate.core.window import LostInterval, Tombstone, erased_mark, spanned

NOW_MS = BEGAN_MS + 1_000_000
RETENTION_MS = 120_000


def texts(timeline):
    return {state.id: text_of(state) for state in timeline.messages.values()}


def whole(rid, text, at_s):
    """Return the messages of a response of one token, three seconds long."""
    return [
        published("start", None, at_s=at_s, responseId=rid, seq=0),
        published("token", text, at_s=at_s + 1, responseId=rid, seq=1),
        published("stop", None, at_s=at_s + 2, responseId=rid, seq=2),
    ]


def anonymous(*told):
    """Return messages without a response id, a second apart: (name, data[, headers])."""
    return [
        published(name, data, at_s=at_s, **(more[0] if more else {}))
        for at_s, (name, data, *more) in enumerate(told)
    ]


class TestMessages:
    def test_interleaved_responses_keep_apart_in_the_order_in_which_they_began(self):
        timeline = timeline_of(
            published("user-input", {"promptId": "p", "text": "hi"}, at_s=0),
            published("start", None, at_s=1, responseId="b", seq=0),
            published("start", None, at_s=2, responseId="a", seq=0),
            published("token", "B", at_s=3, responseId="b", seq=1),
            published("token", "A", at_s=4, responseId="a", seq=1),
            published("token", "B", at_s=5, responseId="b", seq=2),
        )
        assert [(s.id, s.role, text_of(s)) for s in timeline.ordered] == [
            ("p", "user", "hi"),
            ("b", "assistant", "BB"),
            ("a", "assistant", "A"),
        ]

    def test_outcomes_are_counted(self):
        timeline = timeline_of(*whole("a", "x", 0), *whole("a", "x", 0))
        assert timeline.counts == {"folded": 3, "old": 3}

    def test_a_stop_or_a_repair_alone_is_a_message_too(self):
        timeline = timeline_of(
            published("stop", None, at_s=0, responseId="a", seq=3),
            published("response-complete", "abc", at_s=1, responseId="b", seq=3),
        )
        assert [(s.id, s.status, s.gaps()) for s in timeline.ordered] == [
            ("a", "completed", [(1, 2)]),
            ("b", "in_progress", []),
        ]

    def test_a_cancel_does_not_begin_a_message(self):
        assert not timeline_of(published("cancel", None, responseId="r")).messages

    def test_a_pointer_does_not_begin_a_message(self):
        timeline = timeline_of(published("response-complete", None, responseId="r", seq=4))
        assert (timeline.counts, timeline.messages) == ({"pointer": 1}, {})

    def test_without_serials_messages_stand_in_the_order_in_which_they_came(self):
        timeline = timeline_of(
            *(each._replace(serial=None) for each in [*whole("b", "x", 0), *whole("a", "y", 5)])
        )
        assert [state.id for state in timeline.ordered] == ["b", "a"]
        assert all(state.position for state in timeline.ordered)

    def test_events_of_replays_are_never_recorded(self):
        timeline = timeline_of(published("token", "x", responseId="r2", seq=1, replayOf="r"))
        assert (timeline.counts, timeline.messages) == ({"old": 1}, {})

    def test_only_agents_may_publish_responses_where_they_are_named(self):
        timeline = timeline_of(
            published("user-input", {"promptId": "p", "text": "hi"}, at_s=0, client_id="ann"),
            published("token", "x", at_s=1, responseId="r", seq=1, client_id="ann"),
            published("token", "y", at_s=2, responseId="q", seq=1, client_id="bot"),
            agents=frozenset({"bot"}),
        )
        assert texts(timeline) == {"p": "hi", "q": "y"}
        assert timeline.counts["foreign"] == 1


class TestAnonymous:
    def test_the_events_that_name_no_response_are_of_the_open_one(self):
        timeline = timeline_of(
            *anonymous(("start", None), ("token", "a"), ("token", "b"), ("stop", None))
        )
        assert texts(timeline) == {"m0": "ab"}
        assert timeline.anonymous

    def test_after_a_stop_the_next_stream_is_a_message_of_its_own(self):
        timeline = timeline_of(
            *anonymous(
                ("token", "a"), ("stop", None), ("token", "b"), ("token", "c"), ("stop", None)
            )
        )
        assert texts(timeline) == {"m0": "a", "m2": "bc"}

    def test_a_second_start_begins_another_stream_although_the_first_has_not_ended(self):
        timeline = timeline_of(
            *anonymous(("start", None), ("token", "a"), ("start", None), ("token", "b"))
        )
        assert texts(timeline) == {"m0": "a", "m2": "b"}
        later = timeline_of(*anonymous(("token", "a"), ("start", None), ("token", "b")))
        assert texts(later) == {"m0": "a", "m1": "b"}

    def test_repeated_events_belong_to_the_stream_that_contains_them(self):
        messages = anonymous(
            ("start", None), ("token", "a"), ("stop", None), ("start", None), ("token", "b")
        )
        assert texts(timeline_of(*messages, *messages)) == {"m0": "a", "m3": "b"}

    def test_repeated_events_with_seqs_too(self):
        messages = anonymous(
            ("start", None, {"seq": 0}),
            ("token", "a", {"seq": 1}),
            ("stop", None, {"seq": 2}),
            ("start", None, {"seq": 0}),
            ("token", "b", {"seq": 1}),
        )
        assert texts(timeline_of(*messages, *messages)) == {"m0": "a", "m3": "b"}

    def test_an_event_older_than_every_known_stream_is_dropped(self):
        timeline = timeline_of(published("token", "b", at_s=9))
        timeline.apply(Event("token", None, serial=serial(BEGAN_MS), id="old", text="a"))
        assert texts(timeline) == {"m9": "b"}

    def test_an_event_between_two_streams_belongs_to_the_first(self):
        timeline = timeline_of(
            *anonymous(("token", "a"), ("stop", None), ("stop", None), ("token", "b"))
        )
        late = Event("token", None, serial=serial(BEGAN_MS + 500), id="late", text="x")
        assert timeline.apply(late).outcome is Outcome.OLD

    def test_a_late_event_of_the_open_stream_belongs_to_it(self):
        timeline = timeline_of(*anonymous(("token", "a"), ("token", "b")))
        late = Event("token", None, serial=serial(BEGAN_MS + 500), id="late", text="x")
        assert timeline.apply(late).outcome is Outcome.OLD
        assert texts(timeline) == {"m0": "ab"}

    @pytest.mark.parametrize("odd", ["a\x00", "\ud83d", "x" * 300, ""])
    def test_an_invalid_id_does_not_name_a_message(self, odd):
        (state,) = timeline_of(published("token", "a", id_=odd)).messages.values()
        assert (state.id, text_of(state)) == (serial(BEGAN_MS), "a")

    def test_an_event_without_any_name_is_dropped(self):
        assert not timeline_of(published("token", "a", id_="", serials=False)).messages

    def test_stored_streams_are_ordered_by_position(self):
        timeline = timeline_of(*anonymous(("token", "a"), ("stop", None), ("token", "b")))
        again = Timeline(reversed(timeline.ordered))
        again.apply(
            Event("token", None, serial=serial(NOW_MS), id="new", text="c", timestamp_ms=NOW_MS)
        )
        assert texts(again) == {"m0": "a", "m2": "bc"}

    def test_an_event_without_an_id_continues_the_open_stream(self):
        timeline = timeline_of(published("token", "a", at_s=1))
        timeline.apply(Event("token", None, serial=serial(BEGAN_MS + 2_000), text="b"))
        assert texts(timeline) == {"m1": "ab"}


class TestErased:
    def test_nothing_at_or_before_the_tombstone_is_read_again(self):
        stone = Tombstone(serial(BEGAN_MS + 2000), BEGAN_MS + 2000)
        timeline = timeline_of(*whole("a", "x", 0), *whole("b", "y", 3), tombstone=stone)
        assert texts(timeline) == {"b": "y"}

    def test_the_rest_of_an_erased_response_is_not_read_either(self):
        stone = Tombstone(serial(BEGAN_MS), BEGAN_MS, frozenset({erased_mark("a")}))
        assert not timeline_of(*whole("a", "x", 0), tombstone=stone).messages

    def test_without_serials_the_time_decides(self):
        stone = Tombstone(None, BEGAN_MS + 2000)
        messages = [*whole("a", "x", 0), *whole("b", "y", 3)]
        assert texts(timeline_of(*messages, tombstone=stone)) == {"b": "y"}


class TestLost:
    def test_open_text_without_seq_is_inexact_after_missed_events(self):
        bare = folded(event("start", None, at_s=0), event("token", None, "a", at_s=1))
        numbered = folded(start(), token(1, "a"), state=MessageState("n"))
        ended = folded(
            event("token", None, "a", at_s=1), event("stop", None, at_s=2), state=MessageState("e")
        )
        ended.headless = False
        timeline = Timeline([bare, numbered, ended])
        timeline.mark_inexact()
        assert {state.id: state.exact for state in timeline.messages.values()} == {
            "r": False,
            "n": True,
            "e": True,
        }
        assert bare.changed


def test_a_second_stop_of_a_response_is_old():
    timeline = timeline_of(*whole("a", "x", 0))
    assert timeline.apply(stop(9, message_id="a")).outcome is Outcome.OLD


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 3)


def begun(*, numbers, **how):
    starts = (published("start", at_s=n, responseId=f"r{n}", seq=0) for n in numbers)
    return timeline_of(*starts, **how)


@pytest.mark.usefixtures("three")
def test_a_response_over_the_limit_is_refused_and_its_time_recorded():
    timeline = begun(numbers=range(6))
    assert list(timeline.messages) == ["r0", "r1", "r2"]
    assert timeline.counts == {"folded": 3, "refused": 3}
    assert timeline.refused == LostInterval(BEGAN_MS + 3_000, BEGAN_MS + 5_000)


@pytest.mark.usefixtures("three")
def test_known_responses_continue_and_prompts_are_accepted():
    timeline = begun(numbers=range(6))
    prompt = Event("prompt", "p", id="p", serial=serial(BEGAN_MS + 9_000), text="hi")
    more = token(1, "a", message_id="r2", at_s=7)
    timeline.fold([more, prompt, token(2, "b", message_id="r4", at_s=8)])
    assert texts(timeline) == {"r0": "", "r1": "", "r2": "a", "p": "hi"}


@pytest.mark.usefixtures("three")
def test_an_ended_response_makes_room():
    timeline = begun(numbers=range(4))
    timeline.fold([stop(1, message_id="r1", at_s=7), token(2, "b", message_id="r3", at_s=8)])
    assert timeline.messages["r3"].gaps() == [(1, 1)]
    timeline.fold([start(message_id="r9", at_s=9)])
    assert "r9" not in timeline.messages


@pytest.mark.usefixtures("three")
def test_stored_responses_are_not_limited():
    ours = [MessageState(f"o{n}") for n in range(5)]
    timeline = begun(numbers=range(1), states=ours)
    timeline.fold([start(message_id="o4", at_s=1), token(1, "x", message_id="o4", at_s=2)])
    assert texts(timeline) == {"o0": "", "o1": "", "o2": "", "o3": "", "o4": "x"}


@pytest.mark.usefixtures("three")
def test_open_responses_elsewhere_count():
    assert list(begun(numbers=range(3), elsewhere=2).messages) == ["r0"]


@pytest.mark.usefixtures("three")
def test_anonymous_responses_count_and_refused_text_is_not_joined():
    timeline = begun(numbers=range(3))
    plain = [event("token", None, t, message_id=None, at_s=9 + n) for n, t in enumerate("ab")]
    timeline.fold(plain)
    assert not timeline.anonymous
    timeline.fold([stop(1, message_id="r1", at_s=15)])
    timeline.fold([event("token", None, "c", message_id=None, at_s=16)])
    (anonymous,) = (state for state in timeline.messages.values() if state.anonymous)
    assert (text_of(anonymous), anonymous.exact) == ("c", False)


@pytest.mark.usefixtures("three")
def test_a_provisional_end_stays_while_there_is_no_room_and_text_is_added():
    idle = folded(start(), token(1, "a"))
    idle.status, idle.provisional, idle.finished_ms = "interrupted", True, BEGAN_MS
    timeline = begun(numbers=range(5, 8), states=[idle])
    timeline.fold([token(2, "b")])
    assert (text_of(idle), idle.status, idle.ended) == ("ab", "interrupted", False)
    timeline.fold([stop(1, message_id="r5", at_s=9), token(3, "c", at_s=10)])
    assert (text_of(idle), idle.status) == ("abc", "in_progress")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("cut", range(7))
def test_folding_in_two_parts_refuses_the_same_responses(cut):
    numbers = list(range(6))
    whole_fold, first = begun(numbers=numbers), begun(numbers=numbers[:cut])
    later = begun(numbers=numbers[cut:], states=first.messages.values())
    assert list(later.messages) == list(whole_fold.messages)
    assert spanned(first.refused, later.refused) == whole_fold.refused


class TestApply:
    def test_the_first_event_of_a_message_begins_it_and_later_ones_do_not(self):
        timeline = Timeline()
        first, then = timeline.apply(start()), timeline.apply(token(1, "a"))
        state = timeline.messages["r"]
        assert first == (state, Outcome.FOLDED, True)
        assert then == (state, Outcome.FOLDED, False)

    def test_what_was_contained_is_reported_with_its_message(self):
        timeline = Timeline()
        timeline.apply(start())
        assert timeline.apply(start()) == (timeline.messages["r"], Outcome.OLD, False)

    def test_what_belongs_to_no_message_is_reported_without_one(self):
        timeline = Timeline(agents=frozenset({"agent"}), tombstone=Tombstone(None, BEGAN_MS))
        assert timeline.apply(token(1, "a", at_s=1)) == (None, Outcome.FOREIGN, False)
        assert timeline.apply(start(client_id="agent")) == (None, Outcome.OLD, False)
        replayed = token(1, "a", at_s=1, client_id="agent", replay_of="q")
        assert timeline.apply(replayed) == (None, Outcome.OLD, False)
        cancel = event("cancel", at_s=1, client_id="agent")
        assert timeline.apply(cancel) == (None, Outcome.OLD, False)
        pointer = event("repair", 2, at_s=1, client_id="agent", message_id="s")
        assert timeline.apply(pointer) == (None, Outcome.POINTER, False)
        assert not timeline.messages

    @pytest.mark.usefixtures("three")
    def test_a_response_for_which_there_is_no_room_is_refused_without_a_message(self):
        timeline = begun(numbers=range(3))
        assert timeline.apply(start(at_s=9)) == (None, Outcome.REFUSED, False)

    def test_a_caller_may_look_the_message_up_first(self):
        timeline = Timeline()
        assert timeline.rejection(start()) is None
        assert timeline.find(start()) is None
        assert timeline.apply_to(None, start()).was_new
        assert timeline.apply_to(timeline.find(token(1, "a")), token(1, "a")).state is not None


class TestVersioned:
    def test_an_event_that_only_adds_begins_no_message(self):
        event = decode(create(1, "a"))
        only_adds = event._replace(version=event.version._replace(only_adds=True))
        timeline = Timeline()
        timeline.fold([only_adds])
        assert not timeline.messages
        timeline.fold([event, only_adds._replace(serial=at(2))])
        assert texts(timeline) == {"r": "aa"}

    def test_versions_belong_where_their_message_began(self):
        timeline = timeline_of(create(1, "a", rid="mine"), full(1, 2, "ab", rid=None))
        assert texts(timeline) == {"mine": "ab"}

    def test_a_version_of_an_unknown_message_without_id_is_dropped(self):
        timeline = Timeline()
        nameless = decode(create(1, "a"))._replace(message_id=None)
        assert timeline.apply(nameless) == (None, Outcome.OLD, False)

    def test_a_stored_message_is_found_by_its_serials(self):
        stored = timeline_of(create(1, "a", rid="mine")).messages.values()
        timeline = Timeline(stored)
        timeline.apply(decode(full(1, 2, "ab", rid=None)))
        assert texts(timeline) == {"mine": "ab"}

    def test_the_number_of_tracked_serials_is_limited(self, monkeypatch):
        monkeypatch.setattr(module, "MAX_TRACKED_SERIALS", 1)
        timeline = timeline_of(create(1, "a", rid="one"), create(2, "b", rid="two"))
        assert timeline.name(decode(full(1, 3, "a", rid=None))) == at(1)
        assert timeline.name(decode(full(2, 3, "b", rid=None))) == "two"

    def test_an_event_without_a_version_names_its_message(self):
        assert Timeline().name(token(1, "a")) == "r"


def test_messages_that_no_codec_recognises_are_counted():
    messages = [published("token", "a", responseId="r", seq=1), published("odd")]
    assert ignored(messages, [decode(messages[0])]) == {"ignored": 1}
    assert ignored(messages[:1], [decode(messages[0])]) == {}


def test_a_cancel_of_an_unknown_agent_is_foreign_as_well():
    timeline = Timeline(agents=frozenset({"agent"}))
    assert timeline.apply(event("cancel", client_id="user")).outcome is Outcome.FOREIGN


def test_a_late_event_without_response_id_belongs_to_the_newest_stream_that_began_before_it():
    timeline = Timeline()
    for at_s in (10, 20, 30):
        timeline.apply(event("token", None, "x", at_s=at_s, message_id=None))
        timeline.apply(event("stop", at_s=at_s + 1, message_id=None, status="completed"))
    assert list(timeline.messages) == ["token10", "token20", "token30"]
    for at_s, id_ in ((10.5, "token10"), (20.5, "token20"), (25, None), (35, None)):
        found = timeline.find(event("token", None, "late", at_s=at_s, message_id=None))
        assert (found and found.id) == id_


class TestLookup:
    def test_it_names_all_that_events_may_belong_to_and_no_more(self):
        timeline = timeline_of(*whole("a", "x", 0))
        named = [event("token", 1, "x", message_id="a"), event("token", 1, "x", message_id="b")]
        assert timeline.lookup(named) == Lookup(frozenset({"b"}))
        assert timeline.lookup(named[:1]).is_empty
        assert timeline.lookup(named[:1], include_known=True) == Lookup(frozenset({"a"}))

    def test_an_append_is_looked_up_by_the_serial_of_its_message(self):
        append = Event("token", None, serial="s", text="x", version=Version("s1", is_delta=True))
        named = append._replace(message_id="s", serial="s")
        elsewhere = append._replace(serial=None)
        assert Timeline().lookup([append, elsewhere]) == Lookup(frozenset(), frozenset({"s"}))
        assert Timeline().lookup([named]) == Lookup(frozenset({"s"}), frozenset({"s"}))

    def test_an_anonymous_event_is_looked_up_by_its_place_and_by_the_ids_it_may_begin_with(self):
        began, first, ended, second = decode_all(
            anonymous(("start", None), ("token", "a"), ("stop", None), ("token", "b"))
        )
        timeline = Timeline()
        timeline.anonymous.complete_from = None
        asked = timeline.lookup([first, began])
        assert asked.anonymous_from == reach_back(began)
        assert {"m0", "m1"} <= asked.ids
        timeline.learn(asked, [])
        assert timeline.lookup([began, first]).anonymous_from is None
        timeline.fold([began, first])
        assert timeline.lookup([first]).is_empty
        assert timeline.lookup([ended, second]).ids == set(names_of(second))
        timeline.fold([ended])
        assert timeline.lookup([ended]).is_empty

    def test_the_ids_of_events_are_looked_up_that_those_before_them_let_begin_a_message(self):
        began, plain, numbered, again = decode_all(
            [
                published("start", None, at_s=0),
                published("token", "a", at_s=1),
                published("token", "b", at_s=2, seq=1),
                published("start", None, at_s=3),
            ]
        )
        timeline = Timeline()
        timeline.fold([began])
        assert timeline.lookup([plain]).is_empty
        assert timeline.lookup([plain, numbered]).ids == set(names_of(numbered))
        assert timeline.lookup([numbered, plain]).ids == {*names_of(numbered), *names_of(plain)}
        assert timeline.lookup([again]).ids == set(names_of(again))
        timeline.fold([plain])
        assert timeline.lookup([plain]).is_empty

    def test_what_is_known_is_not_replaced_by_what_is_stored(self):
        timeline = timeline_of(*whole("a", "x", 0))
        known = timeline.messages["a"]
        timeline.learn(Lookup(frozenset({"a", "b"})), [MessageState("a"), MessageState("b")])
        assert timeline.messages["a"] is known
        assert set(timeline.messages) == {"a", "b"}


def test_a_taken_id_names_no_anonymous_message():
    timeline = timeline_of(*whole("m9", "x", 0), published("token", "y", at_s=9))
    assert texts(timeline) == {"m9": "x", serial(BEGAN_MS + 9_000): "y"}
    timeline.add(MessageState(serial(BEGAN_MS + 60_000)))
    last = Event("start", None, id="m9", serial=serial(BEGAN_MS + 60_000))
    assert timeline.apply(last).outcome is Outcome.OLD


def test_the_answer_to_an_erased_prompt_is_erased():
    stone = Tombstone(None, BEGAN_MS, frozenset({erased_mark("p")}))
    timeline = Timeline(tombstone=stone)
    begins = Event("start", "r", prompt_id="p", timestamp_ms=BEGAN_MS + 1)
    more = Event("token", "r", text="x", timestamp_ms=BEGAN_MS + 2)
    timeline.fold([begins, more, begins._replace(message_id=None)])
    assert (timeline.messages, timeline.excluded.erased) == ({}, {"r"})


def test_without_serials_an_anonymous_event_that_changed_nothing_is_known_again():
    first, foreign, ended = decode_all(
        [
            published("token", "a", at_s=0, serials=False),
            published("token", "b", at_s=1, serials=False, client_id="eve"),
            published("stop", None, at_s=2, serials=False),
        ]
    )
    timeline = Timeline()
    timeline.fold([first, foreign, ended, foreign, first])
    assert texts(timeline) == {"m0": "a"}


def test_events_that_cannot_be_read_are_counted_where_they_were_folded():
    timeline = Timeline()
    unread = event("void", 1, unreadable=1)
    timeline.fold([start(), unread, unread])
    assert (timeline.counts["folded"], timeline.counts["unreadable"]) == (2, 1)

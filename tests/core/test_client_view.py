"""A reader: an answer, then live messages by the drop rule."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from core.builders import (
    BEGAN_MS,
    event,
    folded,
    published,
    serial,
    start,
    stop,
    timeline_of,
    token,
)
from core.growing import append, create, full
from rehydrate.core import client_view as reader
from rehydrate.core import timeline, wire
from rehydrate.core.client_view import Verdict, View, verdict
from rehydrate.core.codecs import decode
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState
from rehydrate.core.timeline import Reason
from rehydrate.core.window import Exclusions

DROP, APPLY, AGAIN = Verdict.DROP, Verdict.APPLY, Verdict.AGAIN


def repair(seq, text="x", **fields):
    return event("repair", seq, text, **fields)


def bare(kind, text=None, *, at_s, **fields):
    return event(kind, None, text, at_s=at_s, **fields)


def answered(*states, reasons=()):
    """Return the answer with *states*, parsed."""
    return json.loads(
        wire.answer(
            conversation_id="c",
            channel="ai:c",
            until=None,
            rewind_from=None,
            reasons=list(reasons),
            older=None,
            exclusions=Exclusions(),
            messages=[wire.encode(state) for state in states],
        )
    )


def read_back(state):
    return wire.state_of(json.loads(wire.encode(state)))


ABC = (start(), token(1, "a"), token(2, "b"), token(3, "c"))
OPEN = folded(*ABC)
ENDED = folded(*ABC, stop(4))
GAPPED = folded(start(), token(1, "a"), token(3, "c"))
ENDED_GAPPED = folded(start(), token(1, "a"), token(3, "c"), stop(4))
REPAIRED = folded(*ABC, repair(3, "ABC", at_s=3.5))
TAKEN = folded(*ABC, token(1, "A", gen=3, at_s=5))
BARE = folded(bare("start", at_s=0), bare("token", "a", at_s=1), bare("token", "b", at_s=2))
SEALED = folded(bare("start", at_s=0), bare("repair", "ab", at_s=3))
STORED = MessageState("r")
STORED.status = "completed"

TABLE = {
    "a lower gen": (TAKEN, token(2, "b", gen=2), DROP),
    "a higher gen empties the message": (OPEN, start(gen=2, at_s=9), APPLY),
    "a higher gen whose start was missed": (OPEN, token(1, "A", gen=2, at_s=9), APPLY),
    "a higher gen in its middle": (OPEN, token(2, "B", gen=2, at_s=9), AGAIN),
    "a higher gen of what has ended": (ENDED, start(gen=2, at_s=9), DROP),
    "an id that was seen": (BARE, bare("token", "b", at_s=2), DROP),
    "an old repair": (REPAIRED, repair(3, at_s=9), DROP),
    "an older repair": (REPAIRED, repair(2, at_s=9), DROP),
    "a repair of all": (OPEN, repair(3, at_s=9), APPLY),
    "a repair ahead": (OPEN, repair(7, at_s=9), APPLY),
    "a repair of less than is shown": (OPEN, repair(2, at_s=9), AGAIN),
    "a repair without data": (OPEN, repair(3, None, at_s=9), AGAIN),
    "a repair where there are gaps": (GAPPED, repair(3, at_s=9), AGAIN),
    "a repair of what has ended": (ENDED, repair(3, at_s=9), AGAIN),
    "a repair without seq, seen": (BARE, bare("repair", "ab", at_s=1, id_="other"), DROP),
    "a repair without seq": (BARE, bare("repair", "ab", at_s=9), APPLY),
    "text behind a repair without seq": (SEALED, bare("token", "x", at_s=9), DROP),
    "a stop behind a repair without seq": (SEALED, bare("stop", at_s=9, status=None), APPLY),
    "a seq of a gap": (GAPPED, token(2, "b"), AGAIN),
    "a seq of a gap of what has ended": (ENDED_GAPPED, token(2, "b"), AGAIN),
    "what has ended": (ENDED, token(9, "x"), DROP),
    "what has ended, without seq": (ENDED, bare("token", "x", at_s=9), DROP),
    "a second stop": (ENDED, stop(4), DROP),
    "an old token": (OPEN, token(2, "b"), DROP),
    "a stop that knew less": (OPEN, stop(3, at_s=9), AGAIN),
    "the next token": (OPEN, token(4, "d"), APPLY),
    "the stop": (OPEN, stop(4), APPLY),
    "the stop of what has gaps": (GAPPED, stop(4), AGAIN),
    "the stop of what has gaps, once it is known": (ENDED_GAPPED, stop(4), DROP),
    "a jump": (OPEN, token(5, "e"), AGAIN),
    "a stop that jumps": (OPEN, stop(6), AGAIN),
    "without seq, old": (BARE, bare("token", "b", at_s=2, id_="other"), DROP),
    "without seq, new": (BARE, bare("token", "c", at_s=3), APPLY),
    "without seq and serial": (BARE, bare("token", "c", at_s=3, serials=False), APPLY),
    "another publisher's": (OPEN, token(4, "x", client_id="ann"), DROP),
    "another publisher's stop": (OPEN, stop(4, client_id="ann"), DROP),
    "what a backend stored": (STORED, token(1, "a"), DROP),
    "the first of what is only claimed": (MessageState("r"), token(1, "a"), APPLY),
    "the middle of what is only claimed": (MessageState("r"), token(2, "b"), AGAIN),
    "unknown, its start": (None, start(), APPLY),
    "unknown, from one": (None, token(1, "a"), APPLY),
    "unknown, its middle": (None, token(2, "b"), AGAIN),
    "unknown, its stop": (None, stop(2), AGAIN),
    "unknown, without seq": (None, bare("token", "a", at_s=1), APPLY),
    "unknown, a prompt": (None, bare("prompt", "hi", at_s=1), APPLY),
    "unknown, a repair": (None, repair(9), APPLY),
    "unknown, a pointer": (None, repair(9, None), AGAIN),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_drop_rule(case):
    state, live, expected = TABLE[case]
    assert verdict(state, live) is expected


@pytest.mark.parametrize("case", [case for case in TABLE if TABLE[case][0] is not None])
def test_the_drop_rule_is_the_same_for_an_answer(case):
    state, live, expected = TABLE[case]
    assert verdict(read_back(state), live) is expected


def shown(view):
    return [(m["id"], m["text"], m["status"]) for m in view.messages]


def live(message, **more):
    """Return *message* as an SDK delivers it."""
    told = message._asdict() | {"timestamp": message.timestamp_ms} | more
    return SimpleNamespace(**told)


class TestView:
    def test_a_float_without_a_fraction_is_an_integer(self):
        view = View({"messages": [], "reasons": []})
        assert view.apply(live(published("token", "a", responseId="r"), timestamp=5.0, action=0.0))
        assert view.apply(live(published("token", "b", responseId="r"), action=0.5))
        assert shown(view) == [("r", "a", "in_progress")]

    def test_it_shows_the_answer_and_what_comes_after_it(self):
        view = View(answered(ENDED_OF("q"), OPEN))
        for each in (token(3, "c"), token(4, "d"), stop(5)):
            assert view.apply_event(each) is not AGAIN
        assert shown(view) == [("q", "abc", "completed"), ("r", "abcd", "completed")]
        assert view.open == []

    def test_new_messages_are_shown_behind_the_others(self):
        view = View(answered(OPEN))
        assert view.apply(live(published("user-input", {"promptId": "p", "text": "hi"}, at_s=20)))
        assert view.apply(live(published("start", None, at_s=21, responseId="s", seq=0)))
        assert view.apply(live(published("token", "x", at_s=22, responseId="s", seq=1)))
        assert shown(view) == [
            ("r", "abc", "in_progress"),
            ("p", "hi", "completed"),
            ("s", "x", "in_progress"),
        ]
        assert view.open == ["r", "s"]

    def test_messages_of_sdks_without_serials_and_actions_are_applied(self):
        view = View(answered())
        message = SimpleNamespace(
            name="token", data="a", id="m", timestamp=None, client_id=None, extras=None
        )
        assert view.apply(message)
        assert [m["text"] for m in view.messages] == ["a"]

    def test_messages_that_are_not_events_change_nothing(self):
        view = View(answered(OPEN))
        assert view.apply(live(published("odd", None, at_s=9)))
        assert view.apply(live(published("cancel", None, at_s=9, responseId="r")))
        assert view.apply(live(published("token", "x", at_s=9, responseId="r", seq=4), action=4))
        assert shown(view) == [("r", "abc", "in_progress")]

    def test_a_view_that_lacks_an_event_asks_for_a_new_answer_and_stays(self):
        view = View(answered(OPEN))
        assert not view.apply(live(published("token", "e", at_s=9, responseId="r", seq=5)))
        assert shown(view) == [("r", "abc", "in_progress")]

    def test_a_repair_of_less_than_is_shown_is_not_applied(self):
        view = View(answered(OPEN))
        assert view.apply_event(repair(2, "AB", at_s=9)) is AGAIN
        assert [(m["text"], m["repaired"]) for m in view.messages] == [("abc", None)]

    def test_an_answer_that_a_retry_can_improve_is_stale(self):
        assert not View(answered(reasons=[Reason("not_exact", retry=False, detail="")])).stale
        assert View(answered(reasons=[Reason("history_unavailable", retry=True, detail="")])).stale

    def test_a_replay_is_followed_from_its_start(self):
        view = View(answered())
        for each in (start(), token(1, "a"), stop(2)):
            assert view.apply_event(each._replace(replay_of="q")) is APPLY
        assert shown(view) == [("r", "a", "completed")]

    def test_a_replay_whose_start_was_not_seen_is_dropped(self):
        view = View(answered())
        for each in (token(1, "a"), token(2, "b"), stop(3)):
            assert view.apply_event(each._replace(replay_of="q")) is DROP
        nameless = Event("start", None, id="m", replay_of="q")
        assert view.apply_event(nameless) is DROP
        assert shown(view) == []

    def test_an_anonymous_stream_continues(self):
        first = published("token", "a", at_s=0)
        view = View(answered())
        assert view.apply(live(first))
        again = View(answered(*[wire.state_of(m) for m in view.messages]))
        assert again.apply(live(first))
        assert again.apply(live(published("token", "b", at_s=1)))
        assert again.apply(live(published("stop", None, at_s=2)))
        assert again.apply(live(published("token", "c", at_s=3)))
        assert shown(again) == [("m0", "ab", "completed"), ("m3", "c", "in_progress")]

    def test_an_event_older_than_every_anonymous_stream_is_dropped(self):
        view = View(answered())
        view.apply(live(published("token", "b", at_s=5)))
        old = Event("token", None, serial=serial(BEGAN_MS), id="old", text="a")
        assert view.apply_event(old) is DROP

    def test_a_start_older_than_every_anonymous_stream_begins_one_where_all_are_known(self):
        begun = View(answered())
        late = Event("start", None, serial=serial(BEGAN_MS), id="late")
        begun.apply(live(published("start", None, at_s=5)))
        paged = View(answered() | {"older": "cursor"})
        paged.apply(live(published("start", None, at_s=5)))
        assert (begun.apply_event(late), paged.apply_event(late)) == (APPLY, DROP)


def ENDED_OF(rid):  # noqa: N802 - reads like the table's states
    return folded(*ABC, stop(4), state=MessageState(rid))


def test_a_view_shows_twice_as_many_open_responses_as_the_store_and_then_hydrates_again(
    monkeypatch,
):
    monkeypatch.setattr(timeline, "MAX_OPEN", 2)
    monkeypatch.setattr(reader, "MAX_OPEN", 2)
    view = View(answered(OPEN))
    begun = [view.apply_event(start(message_id=f"r{n}", at_s=9 + n)) for n in range(4)]
    assert begun == [APPLY, APPLY, APPLY, AGAIN]
    assert view.apply_event(token(4, "d", at_s=20)) is APPLY
    assert len(view.messages) == 4


ODD = {
    "action": ["odd", True, 7, 2.5, []],
    "timestamp": ["now", -1, 1e300, 10**400, True, None],
    "id": [5, {}],
    "serial": [5, []],
    "client_id": [5],
    "name": [5, None, {}],
    "version": [None, "v", {}, SimpleNamespace(serial=5, metadata=5)],
    "extras": [5, "x", []],
}


@pytest.mark.parametrize(("member", "value"), [(m, v) for m in ODD for v in ODD[m]])
def test_a_view_takes_messages_whose_members_have_any_type(member, value):
    view = View(answered())
    message = live(published("token", "a", at_s=1, responseId="r", seq=1))
    assert view.apply(SimpleNamespace(**(vars(message) | {member: value})))
    shown = [(each["text"], each["unreadable"]) for each in view.messages]
    if member == "name":  # an unknown one: the text is counted
        assert shown == [("", 1)]
    else:
        assert shown == ([] if member == "action" else [("a", 0)])


def test_a_message_without_members_is_ignored():
    view = View(answered())
    assert (view.apply(SimpleNamespace()), view.messages) == (True, [])


def test_a_repair_without_seq_and_serial_that_was_forgotten_is_dropped():
    state = folded(bare("start", at_s=0, serials=False), bare("token", "a", at_s=9, serials=False))
    assert verdict(state, bare("repair", "old", at_s=1, serials=False)) is DROP
    assert verdict(state, bare("repair", "new", at_s=10, serials=False)) is APPLY


def test_what_only_a_newer_service_knows_is_left_out_and_counted():
    answer = answered(OPEN)
    (message,) = answer["messages"]
    image = {"type": "file", "id": "f", "media_type": "image/png"}
    message |= {"parts": [image, *message["parts"], image], "newer": 1}
    view = View(answer | {"newer": {}})
    assert view.unknown_parts == 2
    assert view.apply_event(token(4, "d")) is APPLY
    assert shown(view) == [("r", "abcd", "in_progress")]


def test_messages_are_encoded_again_after_an_edit():
    view = View(answered(folded(*ABC)))
    (before,) = view.messages
    assert before["exact"]
    assert view.messages[0] is before
    assert view.apply_event(token(2, "B")._replace(edit=serial(BEGAN_MS + 9_000))) is APPLY
    assert not view.messages[0]["exact"]


class TestExclusions:
    AGENTS = answered() | {"agents": ["bot"]}
    ERASED = answered() | {"erased_to": wire.timestamp(BEGAN_MS + 2_500)}

    def test_a_strangers_early_token_does_not_take_the_agents_response(self):
        view = View(self.AGENTS)
        assert view.apply_event(token(1, "x", client_id="ann")) is DROP
        assert view.apply_event(token(1, "a", client_id="bot")) is APPLY
        assert [message["text"] for message in view.messages] == ["a"]

    def test_a_strangers_append_is_dropped_and_causes_no_hydrate(self):
        view = View(self.AGENTS)
        assert view.apply_event(decode(append(1, 2, "x"))._replace(client_id="ann")) is DROP

    def test_anyone_may_publish_prompts(self):
        view = View(self.AGENTS)
        assert view.apply_event(bare("prompt", "hi", at_s=1, client_id="ann")) is APPLY

    def test_a_strangers_replay_is_not_followed(self):
        view = View(self.AGENTS)
        strange = [
            each._replace(replay_of="q", client_id="ann") for each in (start(), token(1, "x"))
        ]
        assert [view.apply_event(each) for each in strange] == [DROP, DROP]

    def test_erased_events_and_the_rest_of_their_response_are_dropped(self):
        view = View(self.ERASED)
        assert [view.apply_event(each) for each in (*ABC, stop(4))] == [DROP] * 5
        assert view.messages == []

    def test_of_an_erased_response_only_the_rest_of_which_is_delivered_the_answer_has_the_id(self):
        assert View(self.ERASED).apply_event(token(3, "c")) is AGAIN
        assert View(self.ERASED | {"erased_ids": ["r"]}).apply_event(token(3, "c")) is DROP

    def test_the_answer_to_an_erased_prompt_is_dropped(self):
        view = View(self.ERASED)
        prompt = bare("prompt", "hi", at_s=1, message_id="p")
        answers = (
            start(message_id="a", at_s=3, prompt_id="p"),
            token(1, "x", message_id="a", at_s=4),
        )
        assert [view.apply_event(each) for each in (prompt, *answers)] == [DROP, DROP, DROP]

    def test_a_replay_of_what_is_erased_is_dropped_and_one_that_began_before(self):
        view = View(self.ERASED | {"erased_ids": ["q"]})
        named = [each._replace(replay_of="q") for each in (start(at_s=8), token(1, "x", at_s=9))]
        begun = [each._replace(replay_of="z", message_id="y") for each in (start(), token(3, "x"))]
        assert [view.apply_event(each) for each in (*named, *begun)] == [DROP] * 4

    def test_new_messages_are_shown(self):
        view = View(self.ERASED)
        assert view.apply_event(start(message_id="n", at_s=3)) is APPLY


class TestVersions:
    def test_an_event_that_only_adds_is_dropped_without_its_message(self):
        event = decode(create(1, "a"))
        only_adds = event._replace(version=event.version._replace(only_adds=True))
        view = View(answered())
        assert (view.apply_event(only_adds), view.messages) == (DROP, [])
        assert (view.apply_event(decode(create(2, "a"))), len(view.messages)) == (APPLY, 1)

    def test_a_reader_shows_each_version_whole(self):
        view = View(answered())
        assert view.apply(live_version(create(1, "a")))
        assert view.apply(live_version(append(1, 2, "b")))
        assert [message["text"] for message in view.messages] == ["ab"]

    def test_a_version_that_the_answer_has_is_dropped(self):
        (state,) = shown_states(full(1, 2, "ab"))
        assert verdict(state, decode(full(1, 2, "ab"))) is DROP
        assert verdict(state, decode(full(1, 3, "abc"))) is APPLY
        assert verdict(state, decode(create(5, "x"))) is APPLY

    def test_a_repaired_message_takes_no_version(self):
        repaired = published("response-complete", "AB", at_s=3, responseId="r")
        (state,) = shown_states(full(1, 2, "ab"), repaired)
        assert verdict(state, decode(full(1, 4, "abc"))) is DROP

    def test_a_delta_without_its_base_needs_a_new_attach(self):
        view = View(answered())
        assert view.apply_event(decode(append(1, 2, "b"))) is AGAIN
        assert view.apply_event(decode(append(1, 2, "b"))._replace(message_id=None)) is DROP


def live_version(message):
    version = SimpleNamespace(serial=message.version_serial, metadata=message.version_metadata)
    return live(message, version=version)


def shown_states(*messages):
    return timeline_of(*messages).messages.values()


def test_what_ended_without_a_publisher_takes_no_event():
    assert verdict(STORED, stop(4)) is DROP

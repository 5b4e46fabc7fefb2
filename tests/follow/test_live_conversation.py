from __future__ import annotations

import json

import pytest

from core.growing import at, create, full
from rehydrate.core import timeline as timelines
from rehydrate.core.client_view import Verdict
from rehydrate.core.codecs import decode
from rehydrate.core.event import ChannelMessage, Event, Version
from rehydrate.core.text import size_budget as extent
from rehydrate.core.timeline import Timeline, Tombstone
from rehydrate.core.window import Window
from rehydrate.follow import live_conversation as module
from rehydrate.follow.live_conversation import FollowedReplays, LiveConversation, grown
from rehydrate.hydrate.hydrate import Reading
from rehydrate.ports import Conversation, Stored

NOW_MS = 1_767_225_600_000


def serial(at_ms, index=0):
    return f"{at_ms:014d}-000@s:{index:03d}"


def said(name, data=None, *, at_ms=NOW_MS, client_id=None, **headers):
    index = headers.get("seq") or 0
    extras = {"headers": headers} if headers else None
    id_ = f"{headers.get('responseId')}-{index}-{at_ms}"
    place = serial(at_ms, index)
    return decode(ChannelMessage(name, data, id_, place, at_ms, client_id, extras))


def token(rid, seq, text, **more):
    return said("token", text, responseId=rid, seq=seq, **more)


def standing(*, agents=frozenset(), tombstone=None):
    row = Conversation("c", "ai:c", NOW_MS, tombstone=tombstone)
    timeline = Timeline(agents=agents, tombstone=tombstone)
    reading = Reading("c", "ai:c", Stored(row, [], False, []), timeline, Window(NOW_MS), [])
    return LiveConversation(reading, frozenset(agents))


def texts(made, limit=50):
    return {m["id"]: m["text"] for m in made.answer(limit, NOW_MS).messages}


def verdicts(made, *events):
    return [made.take(event).verdict for event in events]


def test_what_fits_is_taken_and_what_was_taken_is_dropped():
    made = standing()
    a, b = token("r", 1, "a"), token("r", 2, "b")
    assert verdicts(made, a, b, a, b) == [Verdict.APPLY, Verdict.APPLY, Verdict.DROP, Verdict.DROP]
    assert texts(made) == {"r": "ab"}


def test_what_does_not_fit_is_not_taken_unless_it_is_forced():
    made = standing()
    late = token("r", 3, "c")
    assert verdicts(made, token("r", 1, "a"), late) == [Verdict.APPLY, Verdict.AGAIN]
    assert texts(made) == {"r": "a"}
    made.force(late)
    (message,) = made.answer(50, NOW_MS).messages
    assert (message["text"], message["gaps"]) == ("ac", [[2, 2]])
    assert verdicts(made, token("r", 2, "b")) == [Verdict.AGAIN]


def test_a_finished_message_is_kept_in_its_wire_form_and_still_known():
    made = standing()
    stop = said("stop", responseId="r", seq=2)
    made.take(token("r", 1, "a"))
    made.take(stop)
    assert not made.reading.timeline.messages
    assert texts(made) == {"r": "a"}
    assert verdicts(made, token("r", 1, "a"), stop) == [Verdict.DROP] * 2
    repair = said("response-complete", "A", responseId="r", seq=1)
    assert verdicts(made, repair) == [Verdict.AGAIN]


@pytest.mark.parametrize("numbered", [True, False])
def test_a_response_that_became_too_large_is_told_as_ended_and_then_no_more(monkeypatch, numbered):
    monkeypatch.setattr(extent, "FOLDED_CHARACTERS", 2)
    made = standing()
    told = []
    for seq, letter in enumerate("abcd", 1):
        headers = {"seq": seq} if numbered else {}
        event = said("token", letter, at_ms=NOW_MS + seq, responseId="r", **headers)
        told += [(each.kind, each.text, each.status) for each in made.take(event).told]
    assert told == [("token", "a", None), ("token", "b", None), ("stop", None, "incomplete")]
    (message,) = made.answer(50, NOW_MS).messages
    assert (message["text"], message["error"]["code"]) == ("ab", "too_large")


def test_a_channel_message_that_grew_too_large_is_told_as_ended(monkeypatch):
    made = standing()
    made.take(decode(create(1, "ab")))
    monkeypatch.setattr(extent, "FOLDED_CHARACTERS", 2 + len(at(1)))
    (stop,) = made.take(decode(full(1, 2, "abc"))).told
    assert (stop.kind, stop.status, stop.error["code"]) == ("stop", "incomplete", "too_large")
    assert texts(made) == {"r": "ab"}


def test_only_the_newest_finished_messages_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_LIMIT", 3)
    monkeypatch.setattr(module, "_MOST_ROWS", 5)
    made = standing()
    for n in range(7):
        made.take(said("user-input", {"promptId": f"p{n}", "text": "x"}, at_ms=NOW_MS + n))
    assert list(texts(made)) == ["p4", "p5", "p6"]
    assert made.answer(50, NOW_MS).older


def test_others_than_the_agents_are_not_heeded_but_for_prompts():
    made = standing(agents={"agent"})
    foreign = token("r", 7, "x", client_id="reader")
    prompt = said("user-input", {"promptId": "p", "text": "?"}, client_id="reader")
    assert verdicts(made, foreign, prompt) == [Verdict.DROP, Verdict.APPLY]
    assert texts(made) == {"p": "?"}


def test_what_was_erased_stays_so():
    made = standing(tombstone=Tombstone(serial(NOW_MS, 9), NOW_MS, frozenset()))
    old, new = token("r", 7, "x"), token("s", 1, "y", at_ms=NOW_MS + 1)
    assert verdicts(made, old, new) == [Verdict.DROP, Verdict.APPLY]
    assert texts(made) == {"s": "y"}


def test_the_answer_says_up_to_where_it_reaches_and_from_where_to_rewind():
    made = standing()
    for seq, ago_ms in enumerate((200_000, 9_000, 6_000, 1_000), start=1):
        made.take(token("r", seq, "x", at_ms=NOW_MS - ago_ms))
    answer = made.answer(50, NOW_MS)
    assert answer.until == serial(NOW_MS - 1_000, 4)
    assert answer.rewind_from == serial(NOW_MS - 6_000, 3)
    quiet = made.answer(50, NOW_MS + 30_000)
    assert quiet.rewind_from == serial(NOW_MS - 6_000, 3), "who rewinds sees what the answer has"
    assert made.answer(50, NOW_MS + 500_000).rewind_from is None


def test_a_pointer_to_the_store_makes_it_stale():
    made = standing()
    made.take(token("r", 1, "a"))
    assert not made.stale
    made.force(said("response-complete", None, responseId="r", seq=1))
    assert made.stale


@pytest.mark.parametrize("anonymous", [True, False])
def test_text_without_seq_is_appended_in_its_order(anonymous):
    made = standing()
    more = {} if anonymous else {"responseId": "r"}
    events = [said("token", text, at_ms=NOW_MS + n, **more) for n, text in enumerate("abc")]
    stop = said("stop", at_ms=NOW_MS + 9, **more)
    assert verdicts(made, *events, events[1], stop) == [
        *[Verdict.APPLY] * 3,
        Verdict.DROP,
        Verdict.APPLY,
    ]
    (message,) = made.answer(50, NOW_MS).messages
    assert (message["text"], message["status"]) == ("abc", "completed")
    assert json.loads(made.answer(50, NOW_MS).body)["messages"] == [message]


def text(value, **more):
    return {"type": "text", "text": value, **more}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [text("a")], [("token", "a", None)]),
        ([text("a")], [text("abc")], [("token", "bc", None)]),
        ([text("a")], [text("a")], []),
        ([text("a")], [text("x")], [("repair", "x", None)]),
        ([text("ab")], [text("a")], [("repair", "a", None)]),
        ([text("a", part="0")], [text("ab", part="0")], [("token", "b", "0")]),
        (
            [text("a"), {"type": "reasoning", "text": "r"}],
            [text("ab"), {"type": "reasoning", "text": "r"}],
            [("repair", "ab", None)],
        ),
        (
            [{"type": "reasoning", "text": "r"}],
            [{"type": "reasoning", "text": "rs"}, text("a")],
            [("reasoning", "s", None), ("token", "a", None)],
        ),
        ([text("a")], [], [("repair", "", None)]),
    ],
)
def test_of_what_grows_only_what_is_new_is_told_where_that_is_all(before, after, told):
    event = Event("token", "r", serial="s", version=Version("v"))
    found = [(each.kind, each.text, each.part) for each in grown(before, after, event)]
    assert found == told


def test_what_grows_and_says_that_it_is_the_last_is_told_as_a_stop_too():
    event = Event("token", "r", serial="s", status="completed", version=Version("v"))
    last, stop = grown([text("a")], [text("ab")], event)
    assert (last.kind, last.text, last.status, last.serial) == ("token", "b", None, "v")
    assert (stop.kind, stop.status, stop.text) == ("stop", "completed", None)


def call(args, **more):
    return {"type": "tool_call", "tool_call_id": "t", "name": "add", "args": args, **more}


PENDING = {"result": None, "status": "in_progress"}
DONE = {"result": [2], "status": "completed", "result_through": {"serial": "x", "version": "x"}}
FAILED = DONE | {"status": "failed"}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [call("", **PENDING)], [("tool_call", "", None)]),
        ([call('{"', **PENDING)], [call('{"a"', **PENDING)], [("tool_args", None, 'a"')]),
        ([call("{}", **PENDING)], [call("{}", **DONE)], [("tool_result", [2], None)]),
        ([call("{}", **PENDING)], [call("{}", **FAILED)], [("tool_result", [2], None, "failed")]),
        (
            [call("{}", **PENDING)],
            [call("[]", **PENDING)],
            [("repair", [call("[]", **PENDING)], "")],
        ),
        ([call("", **PENDING)], [call("{}", **DONE)], [("repair", [call("{}", **DONE)], "")]),
        ([], [call({}, **DONE)], [("repair", [call({}, **DONE)], "")]),
    ],
)
def test_of_a_tool_call_that_grows_each_step_is_told(before, after, told):
    event = Event("tool_call", "r", serial="s", name="add", value="", version=Version("v"))
    found = [
        (each.kind, each.value, each.text, *([each.status] if each.status else []))
        for each in grown(before, after, event)
    ]
    assert found == told


def test_a_tool_that_failed_does_not_end_the_response():
    event = Event("tool_result", "r", serial="s", status="failed", version=Version("v"))
    told = grown([call("{}", **PENDING)], [call("{}", **FAILED)], event)
    assert [each.kind for each in told] == ["tool_result"]


def test_a_prompt_of_several_channel_messages_is_told_as_all_of_it():
    event = Event("prompt", "p", serial="s", text="b", version=Version("s"))
    (said_,) = grown([text("a")], [text("a"), text("b")], event)
    assert (said_.kind, said_.text) == ("prompt", "ab")


def replayed(name, rid, seq, data=None):
    return said(name, data, responseId=rid, seq=seq, replayOf="o")


def test_a_replay_of_somebody_who_may_not_publish_responses_is_not_told():
    replays = FollowedReplays(frozenset({"agent"}))
    assert replays.take(replayed("start", "r", 0), 1) is None
    assert replays.take(replayed("start", "r", 0)._replace(client_id="reader"), 2) is None
    assert replays.take(replayed("start", "r", 0)._replace(client_id="agent"), 3) == 3


def test_a_replay_is_told_from_its_start_each_event_once():
    replays = FollowedReplays()
    assert replays.take(replayed("token", "x", 5, "late"), 1) is None
    assert replays.take(replayed("start", "r", 0), 7) == 7
    assert replays.take(replayed("token", "r", 1, "a"), 8) == 7
    assert replays.take(replayed("token", "r", 1, "a"), 9) is None
    assert replays.running_since_before(7)
    assert not replays.running_since_before(6)
    assert replays.take(replayed("stop", "r", 2), 9) == 7
    assert not replays.running_since_before(9)


def test_only_so_many_replays_are_known(monkeypatch):
    monkeypatch.setattr(module, "_MOST_REPLAYS", 2)
    replays = FollowedReplays()
    for n, rid in enumerate("abc"):
        replays.take(replayed("start", rid, 0), n)
    assert replays.take(replayed("token", "a", 1, "x"), 9) is None
    assert replays.take(replayed("token", "c", 1, "x"), 9) == 2


def test_of_twice_as_many_responses_as_are_kept_one_more_is_to_be_read_and_not_forced(monkeypatch):
    monkeypatch.setattr(timelines, "MOST_OPEN", 1)
    monkeypatch.setattr(module, "MOST_OPEN", 1)
    made = standing()
    events = [token(f"r{n}", 1, "a") for n in range(3)]
    assert verdicts(made, *events) == [Verdict.APPLY, Verdict.APPLY, Verdict.AGAIN]
    assert made.force(events[2]).told == ()
    assert texts(made) == {"r0": "a", "r1": "a"}
    assert [reason.code for reason in made.answer(50, NOW_MS).reasons] == ["not_exact"]
    assert verdicts(made, token("r1", 2, "b")) == [Verdict.APPLY]

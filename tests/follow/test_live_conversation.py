"""The state of a followed conversation, advanced by live events."""

from __future__ import annotations

import json

import pytest

from core.growing import at, create, full
from rehydrate.core import timeline as timelines
from rehydrate.core.client_view import Verdict
from rehydrate.core.codecs import decode
from rehydrate.core.event import ChannelMessage, Event, Version
from rehydrate.core.text import content
from rehydrate.core.timeline import Reason, Timeline
from rehydrate.core.window import Tombstone
from rehydrate.follow import live_conversation as module
from rehydrate.follow.live_conversation import FollowedReplays, LiveConversation, grown
from rehydrate.hydrate.history_window import no_history
from rehydrate.hydrate.hydrate import Reading
from rehydrate.ports import Conversation, Stored

NOW_MS = 1_767_225_600_000


def serial(at_ms, index=0):
    return f"{at_ms:014d}-000@s:{index:03d}"


def live(name, data=None, *, at_ms=NOW_MS, client_id=None, **headers):
    index = headers.get("seq") or 0
    extras = {"headers": headers} if headers else None
    id_ = f"{headers.get('responseId')}-{index}-{at_ms}"
    place = serial(at_ms, index)
    return decode(ChannelMessage(name, data, id_, place, at_ms, client_id, extras))


def token(rid, seq, text, **more):
    return live("token", text, responseId=rid, seq=seq, **more)


def conversation(*, agents=frozenset(), tombstone=None):
    row = Conversation("c", "ai:c", NOW_MS, tombstone=tombstone)
    timeline = Timeline(agents=agents, tombstone=tombstone)
    reading = Reading("c", "ai:c", Stored(row, [], False, []), timeline, no_history(NOW_MS), [])
    return LiveConversation(reading)


def texts(made, limit=50):
    return {m["id"]: m["text"] for m in made.answer(limit, NOW_MS).messages}


def verdicts(made, *events):
    return [made.apply(event).verdict for event in events]


def test_the_next_event_is_applied_and_its_repetition_dropped():
    made = conversation()
    a, b = token("r", 1, "a"), token("r", 2, "b")
    assert verdicts(made, a, b, a, b) == [Verdict.APPLY, Verdict.APPLY, Verdict.DROP, Verdict.DROP]
    assert texts(made) == {"r": "ab"}


def test_a_live_event_is_looked_up_once_and_checked_once(monkeypatch):
    calls = []
    for name in ("find", "rejection"):
        called = getattr(Timeline, name)

        def counted(timeline, event, *, name=name, called=called):
            calls.append(name)
            return called(timeline, event)

        monkeypatch.setattr(Timeline, name, counted)
    made = conversation()
    assert verdicts(made, token("r", 1, "a"), token("r", 2, "b")) == [Verdict.APPLY] * 2
    assert calls == ["rejection", "find"] * 2


def test_an_event_after_a_missing_one_is_applied_only_when_forced():
    made = conversation()
    late = token("r", 3, "c")
    assert verdicts(made, token("r", 1, "a"), late) == [Verdict.APPLY, Verdict.AGAIN]
    assert texts(made) == {"r": "a"}
    made.force(late)
    (message,) = made.answer(50, NOW_MS).messages
    assert (message["text"], message["gaps"]) == ("ac", [[2, 2]])
    assert verdicts(made, token("r", 2, "b")) == [Verdict.AGAIN]


def test_a_finished_message_is_kept_in_its_wire_form_and_found_again():
    made = conversation()
    stop = live("stop", responseId="r", seq=2)
    made.apply(token("r", 1, "a"))
    made.apply(stop)
    assert not made.reading.timeline.messages
    assert texts(made) == {"r": "a"}
    assert verdicts(made, token("r", 1, "a"), stop) == [Verdict.DROP] * 2
    repair = live("response-complete", "A", responseId="r", seq=1)
    assert verdicts(made, repair) == [Verdict.AGAIN]


@pytest.mark.parametrize("numbered", [True, False])
def test_a_response_beyond_the_size_limit_is_emitted_as_ended_once(monkeypatch, numbered):
    monkeypatch.setattr(content, "FOLDED_CHARACTERS", 2)
    made = conversation()
    emitted = []
    for seq, letter in enumerate("abcd", 1):
        headers = {"seq": seq} if numbered else {}
        event = live("token", letter, at_ms=NOW_MS + seq, responseId="r", **headers)
        emitted += [(each.kind, each.text, each.status) for each in made.apply(event).emitted]
    assert emitted == [("token", "a", None), ("token", "b", None), ("stop", None, "incomplete")]
    (message,) = made.answer(50, NOW_MS).messages
    assert (message["text"], message["error"]["code"]) == ("ab", "too_large")


def test_a_growing_message_beyond_the_size_limit_is_emitted_as_ended(monkeypatch):
    made = conversation()
    made.apply(decode(create(1, "ab")))
    monkeypatch.setattr(content, "FOLDED_CHARACTERS", 2 + len(at(1)))
    (stop,) = made.apply(decode(full(1, 2, "abc"))).emitted
    assert (stop.kind, stop.status, stop.error["code"]) == ("stop", "incomplete", "too_large")
    assert texts(made) == {"r": "ab"}


def test_only_the_newest_finished_messages_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_LIMIT", 3)
    monkeypatch.setattr(module, "_MAX_ROWS", 5)
    made = conversation()
    for n in range(7):
        made.apply(live("user-input", {"promptId": f"p{n}", "text": "x"}, at_ms=NOW_MS + n))
    assert list(texts(made)) == ["p3", "p4", "p5", "p6"]
    assert made.answer(50, NOW_MS).older


@pytest.mark.parametrize(("count", "characters"), [(1_000, 10), (200, 100_000)])
def test_without_new_followers_finished_messages_are_forgotten_all_the_same(count, characters):
    made = conversation()
    for n in range(count):
        made.apply(
            live("user-input", {"promptId": f"p{n}", "text": "x" * characters}, at_ms=NOW_MS + n)
        )
        kept = made._rows.values()
        assert len(kept) <= module._MAX_ROWS
        assert sum(len(row.wire) for row in kept) <= module.MAX_ROW_BYTES
    shown = made.answer(10, NOW_MS)
    assert [m["id"] for m in shown.messages] == [f"p{n}" for n in range(count - 10, count)]
    assert shown.older


def test_the_newest_message_is_kept_whatever_its_size(monkeypatch):
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 1_000)
    made = conversation()
    for n, text in enumerate(("a", "x" * 5_000, "y" * 5_000)):
        made.apply(live("user-input", {"promptId": f"p{n}", "text": text}, at_ms=NOW_MS + n))
        assert list(texts(made))[-1] == f"p{n}"


def test_events_of_clients_other_than_the_agents_are_dropped_except_prompts():
    made = conversation(agents={"agent"})
    foreign = token("r", 7, "x", client_id="reader")
    prompt = live("user-input", {"promptId": "p", "text": "?"}, client_id="reader")
    assert verdicts(made, foreign, prompt) == [Verdict.DROP, Verdict.APPLY]
    assert texts(made) == {"p": "?"}


def test_events_covered_by_the_tombstone_are_dropped():
    made = conversation(tombstone=Tombstone(serial(NOW_MS, 9), NOW_MS, frozenset()))
    old, new = token("r", 7, "x"), token("s", 1, "y", at_ms=NOW_MS + 1)
    assert verdicts(made, old, new) == [Verdict.DROP, Verdict.APPLY]
    assert texts(made) == {"s": "y"}


def test_the_answer_has_until_and_rewind_from():
    made = conversation()
    for seq, ago_ms in enumerate((200_000, 9_000, 6_000, 1_000), start=1):
        made.apply(token("r", seq, "x", at_ms=NOW_MS - ago_ms))
    answer = made.answer(50, NOW_MS)
    assert answer.until == serial(NOW_MS - 1_000, 4)
    assert answer.rewind_from == serial(NOW_MS - 6_000, 3)
    quiet = made.answer(50, NOW_MS + 30_000)
    assert quiet.rewind_from == serial(NOW_MS - 6_000, 3), (
        "a reader that rewinds to it receives a message that the answer has"
    )
    assert made.answer(50, NOW_MS + 500_000).rewind_from is None


def test_a_repair_without_data_makes_it_stale():
    made = conversation()
    made.apply(token("r", 1, "a"))
    assert not made.stale
    made.force(live("response-complete", None, responseId="r", seq=1))
    assert made.stale


@pytest.mark.parametrize("anonymous", [True, False])
def test_text_without_seq_is_appended_in_order(anonymous):
    made = conversation()
    more = {} if anonymous else {"responseId": "r"}
    events = [live("token", text, at_ms=NOW_MS + n, **more) for n, text in enumerate("abc")]
    stop = live("stop", at_ms=NOW_MS + 9, **more)
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
    ("before", "after", "emitted"),
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
def test_a_growing_message_is_emitted_as_its_appended_content_or_as_a_repair(
    before, after, emitted
):
    event = Event("token", "r", serial="s", text="", version=Version("v"))
    found = [(each.kind, each.text, each.part) for each in grown(before, after, event)]
    assert found == emitted


def test_the_last_version_of_a_growing_message_is_followed_by_a_stop():
    event = Event("token", "r", serial="s", text="", status="completed", version=Version("v"))
    last, stop = grown([text("a")], [text("ab")], event)
    assert (last.kind, last.text, last.status, last.serial) == ("token", "b", None, "v")
    assert (stop.kind, stop.status, stop.text) == ("stop", "completed", None)


def call(args, **more):
    return {"type": "tool_call", "tool_call_id": "t", "name": "add", "args": args, **more}


PENDING = {"result": None, "status": "in_progress"}
DONE = {"result": [2], "status": "completed", "result_through": {"serial": "x", "version": "x"}}
FAILED = DONE | {"status": "failed"}


@pytest.mark.parametrize(
    ("before", "after", "emitted"),
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
def test_each_step_of_a_growing_tool_call_is_emitted(before, after, emitted):
    event = Event(
        "tool_call", "r", serial="s", tool_call_id="c", name="add", value="", version=Version("v")
    )
    found = [
        (each.kind, each.value, each.text, *([each.status] if each.status else []))
        for each in grown(before, after, event)
    ]
    assert found == emitted


def test_a_failed_tool_call_does_not_end_the_response():
    event = Event(
        "tool_result", "r", serial="s", tool_call_id="c", status="failed", version=Version("v")
    )
    emitted = grown([call("{}", **PENDING)], [call("{}", **FAILED)], event)
    assert [each.kind for each in emitted] == ["tool_result"]


def test_a_prompt_of_several_channel_messages_is_emitted_as_its_whole_text():
    event = Event("prompt", "p", serial="s", text="b", version=Version("s"))
    (event_,) = grown([text("a")], [text("a"), text("b")], event)
    assert (event_.kind, event_.text) == ("prompt", "ab")


def replayed(name, rid, seq, data=None):
    return live(name, data, responseId=rid, seq=seq, replayOf="o")


def test_a_replay_by_a_client_that_may_not_publish_responses_is_dropped():
    replays = FollowedReplays(frozenset({"agent"}))
    assert replays.apply(replayed("start", "r", 0), 1) is None
    assert replays.apply(replayed("start", "r", 0)._replace(client_id="reader"), 2) is None
    assert replays.apply(replayed("start", "r", 0)._replace(client_id="agent"), 3) == 3


def test_a_replay_is_emitted_from_its_start_each_event_once():
    replays = FollowedReplays()
    assert replays.apply(replayed("token", "x", 5, "late"), 1) is None
    assert replays.apply(replayed("start", "r", 0), 7) == 7
    assert replays.apply(replayed("token", "r", 1, "a"), 8) == 7
    assert replays.apply(replayed("token", "r", 1, "a"), 9) is None
    assert replays.running_since_before(7)
    assert not replays.running_since_before(6)
    assert replays.apply(replayed("stop", "r", 2), 9) == 7
    assert not replays.running_since_before(9)


def test_the_number_of_tracked_replays_is_limited(monkeypatch):
    monkeypatch.setattr(module, "_MAX_REPLAYS", 2)
    replays = FollowedReplays()
    for n, rid in enumerate("abc"):
        replays.apply(replayed("start", rid, 0), n)
    assert replays.apply(replayed("token", "a", 1, "x"), 9) is None
    assert replays.apply(replayed("token", "c", 1, "x"), 9) == 2


def test_a_response_beyond_the_open_limit_means_again_and_is_not_forced(monkeypatch):
    monkeypatch.setattr(timelines, "MAX_OPEN", 1)
    monkeypatch.setattr(module, "MAX_OPEN", 1)
    made = conversation()
    events = [token(f"r{n}", 1, "a") for n in range(3)]
    assert verdicts(made, *events) == [Verdict.APPLY, Verdict.APPLY, Verdict.AGAIN]
    assert made.force(events[2]).emitted == ()
    assert texts(made) == {"r0": "a", "r1": "a"}
    assert [reason.code for reason in made.answer(50, NOW_MS).reasons] == ["not_exact"]
    assert verdicts(made, token("r1", 2, "b")) == [Verdict.APPLY]


def test_a_version_that_can_or_cannot_be_read_replaces_the_whole_message():
    lost = [text("") | {"through": {"serial": "s", "version": "v", "unreadable": True}}]
    event = Event("token", "r", serial="s", text="", version=Version("v"), unreadable=1)
    (repair,) = grown([text("a")], lost, event, whole=True)
    assert (repair.kind, repair.text, repair.unreadable) == ("repair", "", 1)
    (repair,) = grown(lost, [text("ab")], event._replace(unreadable=0), whole=True)
    assert (repair.kind, repair.text, repair.unreadable) == ("repair", "ab", 0)


def test_a_reason_that_is_added_twice_is_given_once():
    made = conversation()
    for detail in ("not attached", "no history"):
        made.add_reason(Reason("history_unavailable", retry=True, detail=detail))
    assert [reason.code for reason in made.answer(5, NOW_MS).reasons] == ["history_unavailable"]


def test_only_the_first_start_by_another_client_contests_a_message():
    made = conversation()
    made.apply(token("r", 1, "of a stranger", client_id="mallory"))
    starts = [live("start", responseId="r", seq=0, client_id=name) for name in ("a", "a", "b")]
    assert [made.apply(start).contested for start in starts] == [True, False, True]
    assert not made.apply(token("r", 2, "b", client_id="a")).contested
    assert not made.apply(live("start", responseId="r", seq=0, client_id="mallory")).contested
    after = LiveConversation(made.reading, made)
    assert not after.apply(starts[0]).contested

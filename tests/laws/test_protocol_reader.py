"""A reader that was written from docs/protocol.md alone shows the same as `View`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.memory import MemoryChannel, MemoryStore, Posted, memory_context
from laws.protocol_reader import Reader, shown
from laws.protocol_stream_reader import StreamReader
from laws.readers import Life, _rewound
from laws.rolling import live as delivered
from laws.test_client_js import content_of
from laws.test_joining import FEATURES
from laws.worlds import serial, worlds
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.codecs import decode
from rehydrate.core.event import UNDECODED, ChannelMessage
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.follow.event_buffer import FollowEvent
from rehydrate.follow.live_conversation import LiveConversation
from rehydrate.hydrate.hydrate import MAX_LIMIT, hydrate, read

searched = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "refusal", "reasoning", "tool_call"])},
        optional={
            "text": st.sampled_from(["", "T"]),
            "part": st.sampled_from(["x", "y"]),
            "tool_call_id": st.sampled_from(["c", "d"]),
            "status": st.sampled_from(["completed", "failed", "in_progress"]),
            "result": st.sampled_from([None, 1]),
        },
    ),
    max_size=3,
)
NAN = float("nan")
NOW_MS = 10**6
NAMES = {
    "start": st.none(),
    "token": st.sampled_from(["a", "b", "", None, {"text": "c"}, {}, b"d", b"\xff", UNDECODED]),
    "odd": st.sampled_from(["a", "", {"text": "a"}, {}, b"a", UNDECODED, None]),
    "ping": st.sampled_from(["a", None]),
    "mapped": st.sampled_from(["m", {"text": "m"}, []]),
    "refusal": st.just("n"),
    "reasoning": st.just("w"),
    "tool_call": st.sampled_from([{"name": "f", "args": {"k": 1}}, {"name": "g"}, {"args": NAN}, None, "f()", UNDECODED]),
    "tool_args": st.sampled_from(["{", "}", b"}", 5, None]),
    "tool_result": st.sampled_from([{"result": 7}, {"name": "h", "result": None}, 5, b"6", UNDECODED]),
    "stop": st.sampled_from([None, {"usage": {"t": 1}}]),
    "response-complete": st.sampled_from(["R", None]) | parts.map(lambda p: {"text": "P", "parts": p}),
    "user-input": st.sampled_from(
        ["hi", {"promptId": "p", "text": "yo"}, None, b"hi", ["a"], {}, {"promptId": "p", "parts": ["a", {}]}]
    ),
    "cancel": st.none(),
}  # fmt: skip
HEADERS = {
    "responseId": st.sampled_from(["r", "r", "r", "s", None, ""]),
    "gen": st.sampled_from([1, 1, 1, 1, 2, "2", 2.0, 0, True, "x"]),
    "part": st.sampled_from(["x", "y", None]),
    "toolCallId": st.sampled_from(["c", "c", "d", 5, None]),
    "status": st.sampled_from([None, "failed", "cancelled", "in_progress", "odd"]),
    "replayOf": st.sampled_from([None] * 9 + ["q"]),
}


@st.composite
def channels(draw):
    """Draw messages of the vocabulary, mostly in seq order, and the place where a reader joins."""
    numbered, seq, log = draw(st.booleans()), 0, []
    names = st.sampled_from([*NAMES, "start", *["token"] * 8])
    for index in range(draw(st.integers(1, 12))):
        name = draw(names) if index else draw(st.sampled_from(["start", "start", "token"]))
        headers = {key: draw(values) for key, values in HEADERS.items() if draw(st.booleans())}
        headers.setdefault("responseId", "r")
        if numbered:
            headers["seq"] = draw(st.sampled_from([seq] * 6 + [seq + 1, max(seq - 1, 0)]))
            seq += 1
        at_ms = 10_000 + index * draw(st.sampled_from([1000, 1000, 1500]))
        if log:
            at_ms = max(at_ms, log[-1].timestamp_ms + 1)
        id_ = f"m{draw(st.sampled_from([index] * 5 + [max(index - 1, 0)]))}"
        client_id = draw(st.sampled_from([None] * 9 + ["eve"]))
        extras = {"headers": headers}
        log.append(
            ChannelMessage(name, draw(NAMES[name]), id_, serial(at_ms), at_ms, client_id, extras)
        )
    cut = draw(st.integers(0, len(log)))
    return log, cut, draw(st.integers(0, cut))


@st.composite
def growing(draw):
    """Draw growing channel messages, as attachments receive them, and where a reader joins."""
    log, creates = [], []
    for index in range(draw(st.integers(1, 12))):
        at_ms = 10_000 + index * 1000
        if draw(st.integers(0, 9)) == 0:
            name = draw(st.sampled_from(["response-end", "response-end", "response-complete"]))
            headers = {"responseId": draw(st.sampled_from(["r", "s"]))}
            message = ChannelMessage(name, "E", f"m{index}", serial(at_ms), at_ms)
        else:
            action = draw(
                st.sampled_from([0, 5, 5, 5, 1, 2]) if creates else st.sampled_from([0, 5])
            )
            own = draw(st.sampled_from(creates)) if action and creates else serial(at_ms)
            creates.append(own)
            headers = draw(st.sampled_from([{"responseId": "r"}, {"responseId": "s"}, {}]))
            name = draw(st.sampled_from([None, "response"])) if action == 5 else "response"
            done = draw(st.sampled_from([None] * 5 + [{"phase": "done", "status": "failed"}]))
            text = draw(st.sampled_from(["a", "b", "", None, {"text": "t"}, 5, b"\xff"]))
            message = ChannelMessage(
                name, text, f"m{index}", own, at_ms, None, None, action, serial(at_ms), done
            )
        log.append(message._replace(extras={"headers": headers}))
    cut = draw(st.integers(0, len(log)))
    live = log[draw(st.integers(0, cut)) :]
    if live and draw(st.booleans()):
        live.append(draw(st.sampled_from(live)))  # delivered twice
    return [m for m in log if m.action != 5][:cut], live


TOKEN_NAMES = frozenset({"mapped"})


def context(log):
    store, channel = MemoryStore(), MemoryChannel(map(Posted, log))
    store.now_ms = channel.now_ms = NOW_MS
    made = memory_context(store, channel, lambda: NOW_MS, retention_ms=10**9)
    return replace(made, token_names=TOKEN_NAMES)


def answered(log):
    return json.loads(asyncio.run(hydrate(context(log), "c")).body)


async def joined(world, joiner):
    life = Life(world)
    await life.until(joiner.at_ms + joiner.delay_ms)
    answer = json.loads((await life.hydrate()).body)
    before = _rewound(world, joiner.at_ms)
    return answer, [each.message for each in (*before, *delivered(world, joiner.at_ms, before))]


def as_shown(bodies):
    return [
        {key: body[key] for key in ("id", "status", "text", "unreadable")}
        | {"parts": list(map(content_of, body["parts"]))}
        for body in bodies
        if body.get("role") != "user"
    ]


def compare(answer, messages):
    view, reader = View(answer), Reader(answer)
    for message in messages:
        event = decode(message, TOKEN_NAMES)
        expected = "DROP" if event is None else view.apply_event(event).name
        assert reader.receive(message) == expected, (answer, messages, message)
        if expected == "AGAIN":
            break
    responses = [v for v in reader.messages.values() if v["role"] == "assistant"]
    assert as_shown(map(shown, responses)) == as_shown(view.messages), (answer, messages)
    prompts = {v["id"]: v["unreadable"] for v in reader.messages.values() if v["role"] == "user"}
    expected = {v["id"]: v["unreadable"] for v in view.messages if v["role"] == "user"}
    assert prompts == expected, (answer, messages)


def test_a_channel_message_belongs_to_its_message_also_after_a_repair_replaced_its_part():
    named = {"headers": {"responseId": "r"}}
    first, second, third = (f"000000000{n}000-000@s:000" for n in (10, 11, 12))
    log = [ChannelMessage("response", "a", "m0", first, 10_000, None, named, 0, first)]
    repair = ChannelMessage("response-complete", "E", "m1", second, 11_000, None, named)
    delta = ChannelMessage(None, "a", "m2", first, 12_000, None, {"headers": {}}, 5, third)
    compare(answered(log), [repair, delta])


def compare_stream(past, messages):
    """Check that the events of the stream add up to the next snapshot."""
    conversation, chains = LiveConversation(asyncio.run(read(context(past), "c"))), AppendChains()
    stream = StreamReader(json.loads(conversation.answer(MAX_LIMIT, NOW_MS).body))
    for message in messages:
        event = decode(message, TOKEN_NAMES)
        whole = None if event is None or event.replay_of else chains.whole(event)
        if whole is None:
            continue
        change = conversation.apply(whole)
        if change.verdict is Verdict.AGAIN:
            break
        for each in change.emitted:
            kind = "token" if each.kind == "void" else each.kind
            sent = FollowEvent(kind, 1, "i", event=each, message_id=change.message_id)
            stream.receive(kind, sent.data)
    snapshot = json.loads(conversation.answer(MAX_LIMIT, NOW_MS).body)["messages"]
    responses = [v for v in stream.messages.values() if v["role"] == "assistant"]
    empty = {
        "status": "in_progress",
        "text": "",
        "parts": [],
        "unreadable": 0,
    }  # sent as soon as it has text
    expected = [
        v
        for v in as_shown(snapshot)
        if v["id"] in stream.messages or not v.items() >= empty.items()
    ]
    by_id = sorted(as_shown(map(shown, responses)), key=lambda v: v["id"])
    for v in (*expected, *by_id):  # the stream counts a version that cannot be read: it has no part
        v["parts"] = [part for part in v["parts"] if part.get("text") != ""]
    assert by_id == sorted(expected, key=lambda v: v["id"]), (past, messages)


@pytest.mark.parametrize("name", FEATURES)
def test_it_shows_the_same_in_the_worlds_of_the_laws(name):
    @searched
    @given(worlds(**FEATURES[name]))
    def search(drawn):
        compare(*asyncio.run(joined(*drawn)))

    search()


@settings(searched, max_examples=600)
@given(channels())
def test_it_shows_the_same_for_any_messages_of_the_vocabulary(drawn):
    log, cut, overlap = drawn
    answer = answered(log[:cut])
    for body in answer["messages"]:
        if any(
            message.id == "m3" for message in log[:cut]
        ):  # some were stored, or ended by silence
            body.pop("client_id", None)
        elif body["status"] == "in_progress" and cut % 2:
            body |= {"status": "interrupted", "provisional": True}
    compare(answer, log[cut - overlap :])


@settings(searched, max_examples=300)
@given(growing())
def test_it_shows_the_same_for_channel_messages_that_grow(drawn):
    past, messages = drawn
    compare(answered(past), messages)


@settings(searched, max_examples=300)
@given(channels())
def test_the_stream_adds_up_to_its_snapshots(drawn):
    log, cut, overlap = drawn
    compare_stream(log[:cut], log[cut - overlap :])


@settings(searched, max_examples=300)
@given(growing())
def test_the_stream_adds_up_where_channel_messages_grow(drawn):
    compare_stream(*drawn)

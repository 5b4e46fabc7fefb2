"""Arbitrary channel messages: no error, no other response changed, valid answers."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import BEGAN_MS, published, serial, timeline_of
from rehydrate.core import wire
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import ChannelMessage
from rehydrate.core.timeline import Timeline

names = st.sampled_from(
    ["user-input", "start", "token", "refusal", "reasoning", "tool_call", "tool_args", "tool_result",
     "stop", "response-complete", "cancel", "response", "response", "response-end", "\x01", "", None, 5]
)  # fmt: skip
texts = st.text(max_size=5) | st.sampled_from(["\ud83d", "\x00", "a\x7f", "x" * 300, "7", "1e5"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 6)
    | st.sampled_from([2**31 - 1, 2**31, -(10**30), 10**400, math.nan, math.inf, 0.5, 3.0, 1e308])
    | texts
    | st.binary(max_size=3)
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["text", "refusal", "reasoning", "tool_call", "image", 5]),
        "text": scalars,
        "part": scalars,
        "tool_call_id": scalars,
        "args": scalars,
        "result": scalars,
    },
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts | st.integers() | st.binary(max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
data = values | st.fixed_dictionaries(
    {},
    optional={
        "promptId": scalars,
        "text": scalars,
        "parts": st.lists(parts, max_size=3) | scalars,
        "name": scalars,
        "args": values,
        "result": values,
        "usage": values,
        "reason": values,
    },
)
HEADERS = {
    "responseId": st.sampled_from(["a", "b", "a", "b", None, 5, "\x00", {}]),
    "seq": st.integers(0, 8) | scalars,
    "gen": st.sampled_from([1, 1, 1, 2, "2", None]) | scalars,
    "part": scalars,
    "toolCallId": st.sampled_from(["c", "d", 0, None]) | scalars,
    "status": st.sampled_from(["completed", "failed", "in_progress"]) | values,
    "error": values,
    "promptId": scalars,
    "replayOf": st.sampled_from([None, None, None, "q", 5]),
}
extras = values | st.fixed_dictionaries(
    {"headers": values | st.fixed_dictionaries({}, optional=HEADERS)},
    optional={"ephemeral": scalars},
)


@st.composite
def messages(draw):
    at_ms = BEGAN_MS + draw(st.integers(0, 20)) * 500
    return ChannelMessage(
        draw(names),
        draw(data),
        draw(st.sampled_from(["i1", "i2", "i3"]) | texts | st.none()),
        serial(at_ms, draw(st.integers(0, 2))) if draw(st.booleans()) else None,
        at_ms,
        draw(st.sampled_from([None, None, None, "ann", "\ud83d"])),
        draw(extras),
        draw(st.sampled_from([0, 0, 0, 0, 1, 2, 5])),
        draw(st.sampled_from([None, serial(at_ms + 1), serial(at_ms + 2), "v", ""])),
        draw(values | st.fixed_dictionaries({"phase": st.just("done"), "status": scalars})),
    )


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def checked(state):
    """Return the wire form of *state*, parsed, after reading it back."""
    body = json.loads(wire.encode(state), parse_constant=refuse)
    again = json.loads(wire.encode(wire.state_of(body)), parse_constant=refuse)
    assert again == body
    return body


NEIGHBOUR = [
    published("start", None, at_s=0.1, id_="n0", responseId="neighbour", seq=0),
    published("token", "one ", at_s=3.1, id_="n1", responseId="neighbour", seq=1),
    published("token", "two", at_s=6.1, id_="n2", responseId="neighbour", seq=2),
    published("stop", None, at_s=9.1, id_="n3", responseId="neighbour", seq=3),
]


@st.composite
def logs(draw):
    """Return arbitrary messages with a well-formed response in between."""
    log = list(draw(st.lists(messages(), min_size=1, max_size=12)))
    for each in NEIGHBOUR:
        log.insert(draw(st.integers(0, len(log))), each)
    return sorted(log, key=lambda each: each.timestamp_ms)


@settings(max_examples=400, deadline=None)
@given(logs())
def test_after_any_messages_answers_are_valid_and_neighbours_are_whole(log):
    timeline = timeline_of(*log)
    bodies = {state.id: checked(state) for state in timeline.ordered}
    assert all(id_ and "\x00" not in id_ and id_.encode() for id_ in bodies)
    neighbour = bodies["neighbour"]
    assert (neighbour["text"], neighbour["status"]) == ("one two", "completed")
    assert (neighbour["gaps"], neighbour["exact"]) == ([], True)
    counted = timeline.counts.total() - timeline.counts["unreadable"]  # those are folded, too
    assert counted == sum(decode(each) is not None for each in log)


@settings(max_examples=400, deadline=None)
@given(logs(), st.integers(0, 16))
def test_after_any_live_messages_a_view_is_valid_and_neighbours_are_whole(log, cut):
    before, after = log[:cut], log[cut:]
    bodies = [wire.message(state) for state in timeline_of(*before).ordered]
    view = View({"messages": json.loads(json.dumps(bodies)), "reasons": []})
    for event in decode_all(after):
        said_of_it = view.apply_event(event)
        if event.message_id == "neighbour" and event.client_id is None:
            assert said_of_it is not Verdict.AGAIN
    (neighbour,) = (m for m in view.messages if m["id"] == "neighbour")
    assert (neighbour["text"], neighbour["status"]) == ("one two", "completed")


@settings(max_examples=300, deadline=None)
@given(logs())
def test_reading_the_same_once_more_changes_nothing_that_has_a_seq(log):
    once, twice = timeline_of(*log), Timeline()
    for _ in range(2):
        twice.fold(decode_all(log))
    for state in once.ordered:
        if state.seq is not None and state.tail is None and not state.anonymous:
            assert wire.message(twice.messages[state.id])["text"] == wire.message(state)["text"]

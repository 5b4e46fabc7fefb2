"""A law of replays: a reader of a replay gets exactly what is stored.

Each message comes to be in one of the ways that exist: streamed with or without seqs, with events
missing or repeated, repaired, or posted whole. It is stored, read back, scheduled and encoded as the
player does, and folded as a follower does.
"""

from __future__ import annotations

import json
from itertools import count

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from core.replay.test_chunks import plain
from rehydrate.core.codecs import decode, encode
from rehydrate.core.event import TERMINAL, ChannelMessage, Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.replay.schedule import ReplayTerms, scheduled
from rehydrate.core.text.content import clean_parts
from rehydrate.postgres import message_rows, row_changes

OFTEN = settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
BEGAN_MS = 1_767_225_600_000

texts = st.one_of(st.just(""), st.text(max_size=5), st.sampled_from(["\ud83d", "\ude00", "a b c"]))
labels = st.sampled_from([None, None, "x", "y"])
call_ids = st.sampled_from(["c", "d"])
results = st.one_of(
    st.none(), st.sampled_from(["", "r", 0, False, [], {}, {"error": "no"}, [None, {"é": 1.5}]])
)
arguments = st.sampled_from(["", "{", '{"q":1}', {}, {"q": [1]}, 0])
statuses = st.sampled_from(sorted(TERMINAL))

text_parts = st.builds(
    lambda type_, text, label: {"type": type_, "text": text, "part": label},
    st.sampled_from(["text", "text", "reasoning", "refusal"]),
    texts,
    labels,
)
calls = st.builds(
    lambda call_id, name, args, result, status: {
        "type": "tool_call",
        "tool_call_id": call_id,
        "name": name,
        "args": args,
        "result": result,
        "status": status,
    },
    call_ids,
    st.sampled_from([None, "f"]),
    arguments,
    results,
    st.sampled_from(["failed", "failed", "completed", "incomplete", "in_progress", None]),
)
whole_parts = st.lists(st.one_of(text_parts, calls), min_size=1, max_size=5).map(clean_parts)


@st.composite
def contents(draw, seq, at_ms):
    kind = draw(st.sampled_from(["token", "reasoning", "refusal", "tool_args", "call", "result"]))
    common = {"seq": seq, "timestamp_ms": at_ms, "id": f"e{seq}-{at_ms}"}
    if kind == "call":
        named = {"tool_call_id": draw(call_ids), "name": draw(st.sampled_from([None, "f"]))}
        return Event("tool_call", "r", **common, **named, value=draw(arguments))
    if kind == "result":
        failed = draw(st.sampled_from([None, "failed"]))
        return Event(
            "tool_result",
            "r",
            **common,
            tool_call_id=draw(call_ids),
            value=draw(results),
            status=failed,
        )
    if kind == "tool_args":
        return Event("tool_args", "r", **common, text=draw(texts), tool_call_id=draw(call_ids))
    return Event(kind, "r", **common, text=draw(texts), part=draw(labels))


@st.composite
def streamed(draw):
    """Return an open response with random content, and the seq of its next event."""
    state, numbered = MessageState("r"), draw(st.booleans())
    fold(state, Event("start", "r", seq=0 if numbered else None, id="s", timestamp_ms=BEGAN_MS))
    at_ms, seqs = BEGAN_MS, count(1)
    events = []
    for _ in range(draw(st.integers(0, 10))):
        at_ms += draw(st.sampled_from([0, 1, 40, 3_000]))
        events.append(draw(contents(next(seqs) if numbered else None, at_ms)))
    if numbered:
        kept = [each for each in events if draw(st.integers(0, 9))]
        events = draw(st.permutations(kept)) + draw(st.lists(st.sampled_from(kept or [None])))
    for each in events:
        if each is not None:
            fold(state, each)
    return state, next(seqs) if numbered else None, at_ms


@st.composite
def stored(draw):
    """Return a finished message, as it is read from its row."""
    origin = draw(st.sampled_from(["streamed", "repaired", "posted"]))
    event(origin)
    state, end, at_ms = draw(streamed())
    if origin == "repaired":
        covered = None if end is None else draw(st.integers(0, end - 1))
        parts = draw(whole_parts)
        fold(state, Event.repair("r", parts=parts, seq=covered, id="repair", timestamp_ms=at_ms))
    if origin == "posted":
        if draw(st.booleans()):
            state = MessageState("r")
        state.import_finished(draw(whole_parts), draw(statuses), finished_ms=at_ms + 500)
    else:
        status = draw(statuses)
        error = draw(st.sampled_from([None, {"code": "x"}]))
        stop = Event.stop("r", status=status, error=error, usage=draw(results), seq=end, id="stop")
        fold(state, stop._replace(timestamp_ms=at_ms + 500))
    row = row_changes.first_write(state)[0].row
    return message_rows.read_finished((state.id, state.position), *row[-3:]).state


terms = st.builds(
    lambda speed, max_rate: ReplayTerms(speed=speed, max_rate=max_rate),
    st.sampled_from([0, 0.5, 1, 1000]),
    st.sampled_from([1, 25, 1000]),
)


def shown(state):
    """Return the parts of *state* as JSON has them: it joins halves of a character."""
    return json.loads(json.dumps(plain(state.parts())))


def replayed(schedule):
    """Return what a follower has of the replay, whose events pass through their wire form."""
    state = MessageState("replay-1")
    for step in schedule.steps:
        name, data, extras = json.loads(
            json.dumps(encode(step.event._replace(message_id=state.id)))
        )
        received = decode(ChannelMessage(name, data, f"m{step.event.seq}", None, 0, None, extras))
        assert received is not None
        fold(state, received._replace(replay_of=None))
    return state


@OFTEN
@given(stored(), terms)
def test_a_reader_of_a_replay_has_what_is_stored(state, asked):
    reader = replayed(scheduled(state, asked))
    failed = [part for part in state.parts() if part.get("status") == "failed"]
    event("a failed call" if failed else "no failed call")
    assert shown(reader) == shown(state)
    assert reader.gaps() == []
    assert reader.exact
    if not state.gaps():
        assert (reader.status, reader.error) == (state.status, state.error)
        assert reader.usage == state.usage

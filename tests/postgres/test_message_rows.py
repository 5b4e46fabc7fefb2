"""Rows hold exactly the state, its attributes, its runs and its wire form; writes are small."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rehydrate.core import wire
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, Owner, fold
from rehydrate.core.json import dump, load
from rehydrate.core.text.content import Run, collapsed_run, run_of
from rehydrate.postgres import message_rows
from rehydrate.postgres.message_rows import (
    NAMES,
    apply_recent_change,
    attributes_of,
    changed_attributes,
    compacted,
    deflated,
    expanded,
    inflated,
    recent_change,
    restore_attributes,
)
from rehydrate.postgres.store import PostgresStore

IDLE = "idle"
"""Pseudo-event: the idle limit ends the message provisionally."""


def through_json(text: str) -> str:
    return json.loads(json.dumps(text))


texts = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["\ud83d", "\ude00"]),
    st.text(
        st.sampled_from(
            ["a", '"', "\\", "\0", "\ud83d", "\ude00", "😀", "é", "\u0301", "\n", "語"]
        ),
        max_size=6,
    ).map(through_json),
    st.sampled_from(['","parts":[{"type":"text","text":"', '"}]', "\\u0000", '"text":"']),
)
names = st.sampled_from([None, "x", "y\0", "\ud83d"])
call_ids = st.sampled_from(["c1", "c2"])
jsons = st.sampled_from(
    ["", "{", {}, {"text": "a", "parts": [{"type": "text", "text": ""}]}, 1, "\0"]
)
parts = st.lists(
    st.one_of(
        st.builds(lambda t: {"type": "text", "text": t}, texts),
        st.builds(lambda t, p: {"type": "reasoning", "text": t, "part": p}, texts, st.just("x")),
        st.builds(
            lambda i, a, r: {
                "type": "tool_call",
                "tool_call_id": i,
                "name": "n",
                "args": a,
                "result": r,
                "status": "completed",
            },
            call_ids,
            jsons,
            st.one_of(st.none(), jsons),
        ),
    ),
    min_size=1,
    max_size=3,
)
CONTENT = (
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["token", "refusal", "reasoning"]), "text": texts, "part": names}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("tool_call"), "tool_call_id": call_ids, "value": jsons, "name": names}
    ),
    st.fixed_dictionaries({"kind": st.just("tool_args"), "tool_call_id": call_ids, "text": texts}),
    st.fixed_dictionaries(
        {"kind": st.just("tool_result"), "tool_call_id": call_ids, "value": jsons, "name": names}
    ),
    st.just({"kind": "void"}),
)
plain = st.builds(lambda text: {"kind": "token", "text": text}, texts)
start = st.fixed_dictionaries({"kind": st.just("start"), "prompt_id": names})
content = st.one_of(plain, plain, plain, *CONTENT)
repair = st.one_of(
    st.builds(lambda text: {"kind": "repair", "text": text}, texts),
    st.builds(lambda value: {"kind": "repair", "value": value}, parts),
    st.just({"kind": "repair"}),
)
stop = st.fixed_dictionaries(
    {
        "kind": st.just("stop"),
        "status": st.sampled_from(["completed", "failed"]),
        "value": st.one_of(st.none(), jsons),
        "error": st.sampled_from([None, "e\0"]),
    }
)
any_event = st.one_of(content, content, content, start, repair, stop)


def rarely(strategy: st.SearchStrategy, otherwise: st.SearchStrategy) -> st.SearchStrategy:
    return st.integers(0, 11).flatmap(lambda n: otherwise if n else strategy)


@st.composite
def logs(draw: st.DrawFn) -> list[list[Event | str]]:
    """Events of one message, grouped into the batches in which they are written."""
    body = draw(st.sampled_from([plain, content, any_event]))
    fields = [
        *draw(st.lists(start, max_size=1)),
        *draw(st.lists(rarely(any_event, body), min_size=1, max_size=12)),
        *draw(st.lists(stop, max_size=1)),
        *draw(st.lists(any_event, max_size=2)),
    ]
    numbered = draw(st.sampled_from([st.just(True), st.just(True), st.just(False), st.booleans()]))
    with_serials = draw(st.booleans())
    order = draw(st.sampled_from([st.just(0), rarely(st.integers(-2, 3), st.just(0))]))
    steps_ms = st.just(20) if draw(st.booleans()) else st.sampled_from([0, 20, 900, 6000])
    ids = draw(st.sampled_from([st.just("id{}"), st.sampled_from([None, "id{}", "id\ud83d\0"])]))
    events: list[Event | str] = []
    at_ms = 1_763_720_000_123
    for index, given_fields in enumerate(fields):
        at_ms += draw(steps_ms)
        place = max(0, index - draw(order))
        name = draw(ids)
        events.append(
            Event(
                message_id="m",
                gen=draw(rarely(st.just(2), st.just(1))),
                seq=place if draw(numbered) else None,
                serial=f"{place + 20}-s" if with_serials else None,
                id=name and name.format(index),
                client_id=draw(rarely(st.just("who"), st.none())),
                timestamp_ms=at_ms,
                **given_fields,
            )
        )
        if draw(rarely(st.just(True), st.just(False))):
            events.append(IDLE)
    return in_batches(draw, events)


def in_batches(draw: st.DrawFn, events: list[Event | str]) -> list[list[Event | str]]:
    batches: list[list[Event | str]] = [[]]
    for event in events:
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append(event)
    return [batch for batch in batches if batch]


prompts = st.builds(
    lambda text, serial: [[Event("prompt", "m", serial=serial, id="p", timestamp_ms=5, text=text)]],
    texts,
    st.sampled_from([None, "1-s"]),
)


def apply(state: MessageState, event: Event | str) -> None:
    if isinstance(event, Event):
        fold(state, event)
    elif state.status == "in_progress":
        state.status, state.provisional, state.finished_ms = "interrupted", True, 1_763_720_099_000
        state.changed = True


def canonical(state: MessageState) -> dict[str, Any]:
    """Return everything in a state that matters. The split into fragments does not matter."""
    found = attributes_of(state)
    found["recent"] = list(state.recent.items())
    found["id"], found["position"] = state.id, state.position
    found["runs"] = [shape(run) for run in state.runs]
    found["tail"] = state.tail and shape(state.tail)
    return found


def shape(run) -> tuple[Any, ...]:
    segments: list[list[Any]] = []
    for type_, key, pieces, value in run.segments:
        if segments and segments[-1][:2] == [type_, key] and value is None is segments[-1][3]:
            segments[-1][2] += "".join(pieces)
        else:
            segments.append([type_, key, "".join(pieces), value])
    return run.first, run.last, run.collapsed, segments, list(run.timings.entries)


@pytest.fixture(scope="module")
async def pg_store(module_database: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(module_database)
    await store.open()
    yield store
    await store.close()


async def put_and_read(
    store: PostgresStore, conversation: str, mirror: MessageState, batch: list[Event | str]
) -> MessageState:
    """Fold *batch* onto *mirror* and onto the stored state, write it, and read it again."""
    async with store.locked(conversation, conversation) as locked:
        state = (await locked.messages(["m"])).get("m") or MessageState("m", mirror.role)
        for event in batch:
            apply(mirror, event)
            apply(state, event)
        assert canonical(state) == canonical(mirror)
        await locked.put([state])
        mirror.position = state.position
        await locked.put([state])  # has nothing to write
    (read,) = await store.states(conversation, ["m"])
    return read


async def check_load(store: PostgresStore, conversation: str, mirror: MessageState) -> None:
    loaded = await store.load(conversation, limit=5, before=None)
    if mirror.status == "in_progress":
        (state,) = loaded.open
        assert canonical(state) == canonical(mirror)
        assert not loaded.finished
        assert await store.message(conversation, "m") == wire.encode(mirror)
    else:
        (row,) = loaded.finished
        assert (row.position, row.id, row.wire) == (mirror.position, "m", wire.encode(mirror))
        assert not loaded.open
        assert await store.message(conversation, "m") == row.wire


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(log=st.one_of(logs(), logs(), logs(), prompts))
async def test_a_state_written_in_batches_is_read_as_it_was_folded(pg_store, log) -> None:
    conversation = uuid.uuid4().hex
    mirror = MessageState("m", "user" if log[0][0].kind == "prompt" else "assistant")
    for batch in log:
        read = await put_and_read(pg_store, conversation, mirror, batch)
        assert canonical(read) == canonical(mirror)
        assert wire.message(read) == wire.message(mirror)
        await check_load(pg_store, conversation, mirror)


ids = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), max_size=6)


@given(before=ids, now=ids)
def test_applying_a_recent_change_restores_the_ids_in_order(before: dict, now: dict) -> None:
    dropped, appended = recent_change(before, now)
    appended = load(dump(appended))
    after = apply_recent_change(dict(before), dropped, appended)
    assert list(after.items()) == list(now.items())


def test_dropped_and_appended_ids_are_encoded_as_a_difference() -> None:
    before, now = {"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 3, "d": 4}
    assert recent_change(before, now) == (1, {"d": 4})


def test_an_id_that_left_and_came_back_has_its_new_time() -> None:
    changed = {"a": 9, "b": 9}
    assert recent_change({"a": 1}, changed) == (None, changed)


def test_reordered_ids_are_encoded_completely() -> None:
    assert recent_change({"a": 1, "b": 2}, {"b": 2, "a": 1}) == (None, {"b": 2, "a": 1})


def test_difference_contains_only_changed_attributes() -> None:
    state = MessageState("m")
    fresh = attributes_of(MessageState("m"))
    assert changed_attributes(state, fresh) == {}
    state.seq, state.owner, state.usage = 3, Owner(None), {"a": "\ud83d\0"}
    changed = changed_attributes(state, fresh)
    assert changed == {"seq": 3, "owner": (None,), "usage": {"a": "\ud83d\0"}}
    other = MessageState("m")
    restore_attributes(other, load(dump(changed)))
    assert attributes_of(other) == attributes_of(state)


def test_values_do_not_change_with_the_state() -> None:
    state = MessageState("m")
    before = attributes_of(state)
    state.recent["id"] = 1
    assert changed_attributes(state, before) == {"recent": {"id": 1}}


def test_every_slot_of_a_state_is_stored() -> None:
    stored_elsewhere = {"id", "position", "runs", "tail", "versioned", "changed", "budget"}
    assert set(MessageState.__slots__) == set(NAMES) | stored_elsewhere


TRICKS = [
    '","parts":[{"type":"text","text":"',
    '"}]',
    '"text":"',
    "\\",
    '"',
    "\0",
    "\ud83d",
    "語",
    "~",
]
repeated_texts = st.one_of(st.text(), st.lists(st.sampled_from(TRICKS), max_size=5).map("".join))


def message(text: str, **attributes: object) -> bytes:
    state = MessageState(attributes.pop("id", "m"))
    parts = attributes.pop("parts", [{"type": "text", "text": text}])
    state.runs = [collapsed_run(0, 0, parts, 5)]
    state.status, state.finished_ms = "completed", 5
    for name, value in attributes.items():
        setattr(state, name, value)
    return wire.encode(state)


@given(
    text=repeated_texts,
    id_=repeated_texts,
    metadata=st.one_of(repeated_texts, st.dictionaries(repeated_texts, repeated_texts)),
)
def test_expanding_a_compacted_message_restores_its_bytes(text, id_, metadata) -> None:
    body = message(text, id=id_, metadata=metadata)
    assert expanded(compacted(body)) == body


@given(text=repeated_texts)
def test_a_plain_text_is_stored_once(text: str) -> None:
    body = message(text)
    assert len(compacted(body)) <= len(body) - len(dump(text)) + 2 + 9


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "text", "text": "a"}, {"type": "reasoning", "text": "b"}],
        [{"type": "text", "text": "a", "part": "x"}],
        [{"type": "refusal", "text": "a"}],
        [{"type": "tool_call", "tool_call_id": "c", "name": "n", "args": {}}],
    ],
)
def test_messages_with_other_parts_are_not_changed(parts: list) -> None:
    body = message("", parts=parts)
    assert compacted(body) == body == expanded(body)


def test_metadata_that_looks_like_a_message_is_not_changed() -> None:
    lookalike = json.loads(message("inner"))
    for parts in ([{"type": "refusal", "text": "a"}], [{"type": "text", "text": "a"}]):
        body = message("", parts=parts, metadata=lookalike)
        assert expanded(compacted(body)) == body


@given(words=st.lists(st.one_of(repeated_texts, st.just("again and again"))))
def test_inflating_a_deflated_chunk_restores_its_bytes(words: list[str]) -> None:
    body = dump([0, len(words), 0, [["text", None, words]], None])
    assert inflated(deflated(body)) == body
    assert len(deflated(body)) <= len(body)


def test_a_chunk_of_prose_is_much_smaller() -> None:
    text = "A chunk is read by few and only for as long as its response is open, but goes to the "
    text += "write-ahead log beside the final text: it is deflated. What is written goes to that "
    text += "log twice, once as the chunk, and once as the text that the response ends with."
    body = dump([0, 80, 0, [["text", None, text]], None])
    assert len(deflated(body)) < len(body) * 0.65


def test_a_chunk_stored_without_deflation_can_be_read() -> None:
    body = dump([0, 1, 0, [["text", None, "word"]], None])
    assert inflated(body) == body


def token(seq: int | None, text: str, part: str | None = None) -> Event:
    return Event("token", "m", seq=seq, text=text, part=part, timestamp_ms=1_000)


def stream(*texts: str) -> Run:
    run = run_of(token(0, texts[0]))
    for seq, text in enumerate(texts[1:], 1):
        run.append(token(seq, text))
    return run


def read(*chunks: message_rows.StoredChunk) -> message_rows.RunReader:
    reader = message_rows.RunReader()
    rows = [load(chunk.body(None)) for chunk in chunks]
    reader.add(rows, [chunk.tape for chunk in chunks], range(len(chunks)))
    return reader


def text_of(run: Run) -> str:
    return "".join("".join(segment.fragments) for segment in run.segments)


def test_a_new_chunk_contains_only_what_was_added() -> None:
    run = stream("a", "b")
    first = message_rows.full_chunk(run, message_rows.PLAIN)
    mark = message_rows.mark_of(run, message_rows.PLAIN, (0,))
    assert message_rows.new_chunk(mark) is None
    run.append(token(2, "c"))
    run.append(token(3, "d", part="x"))
    second = message_rows.new_chunk(mark)
    assert second.segments == [["text", None, "c"], ["text", "x", "d"]]
    (again,) = read(first, second).runs()
    assert (again.first, again.last, text_of(again)) == (0, 3, "abcd")
    assert again.timings.entries == run.timings.entries


def test_an_event_without_content_extends_the_run() -> None:
    run = stream("a")
    mark = message_rows.mark_of(run, message_rows.PLAIN, (0,))
    run.append(Event("void", "m", seq=1, timestamp_ms=2_000))
    chunk = message_rows.new_chunk(mark)
    assert (chunk.last, chunk.segments) == (1, [])
    (again,) = read(message_rows.full_chunk(stream("a"), message_rows.PLAIN), chunk).runs()
    assert (again.last, len(again.timings.entries)) == (1, 2)


def test_a_run_that_was_read_encodes_only_later_events() -> None:
    reader = read(message_rows.full_chunk(stream("a", "b"), message_rows.PLAIN))
    (mark,) = reader.marks()
    assert message_rows.new_chunk(mark) is None
    mark.run.append(token(2, "c"))
    assert message_rows.new_chunk(mark).segments == [["text", None, "c"]]
    assert not mark.run.timings.unpacked
    again = message_rows.mark_of(mark.run, message_rows.PLAIN, (0, 1))
    assert message_rows.new_chunk(again) is None
    assert [timing.length for timing in mark.run.timings.entries] == [1, 1, 1]
    assert message_rows.new_chunk(again) is None
    mark.run.append(token(3, "d"))
    assert message_rows.new_chunk(again).segments == [["text", None, "d"]]


@pytest.mark.parametrize(
    "fragments", [["\ud83d", "\ude00"], ["a\ud83d", "\ude00\ud83d", "\ude00b"]]
)
def test_lone_surrogates_are_not_joined_into_one_character(fragments: list[str]) -> None:
    run = stream(*fragments)
    (again,) = read(message_rows.full_chunk(run, message_rows.PLAIN)).runs()
    assert text_of(again) == "".join(fragments)
    assert len(text_of(again)) == sum(timing.length for timing in again.timings.entries)


def test_runs_are_sorted_by_seq_and_the_tail_is_separate() -> None:
    late, early = Run(5, 5, [], run_of(token(5, "l")).timings), stream("e")
    tail = run_of(token(None, "t"))
    whole = collapsed_run(2, 3, [{"type": "text", "text": "w"}], 5)
    reader = read(
        message_rows.full_chunk(late, message_rows.PLAIN),
        message_rows.full_chunk(tail, message_rows.TAIL),
        message_rows.full_chunk(whole, message_rows.COLLAPSED),
        message_rows.full_chunk(early, message_rows.PLAIN),
    )
    assert [(run.first, run.collapsed) for run in reader.runs()] == [
        (0, False),
        (2, True),
        (5, False),
    ]
    assert text_of(reader.tail()) == "t"
    assert [mark.ordinals for mark in reader.marks()] == [(0,), (1,), (2,), (3,)]


def test_a_chunk_with_only_a_head_is_skipped() -> None:
    reader = message_rows.RunReader()
    reader.add([[None, None, None, [], [{}, 0, {}]]], [b""], [0])
    assert (reader.runs(), reader.tail(), reader.marks()) == ([], None, [])

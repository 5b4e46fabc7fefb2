"""The text is stored once, and comes back byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehydrate.core import wire
from rehydrate.core.fold import MessageState
from rehydrate.core.json import dump
from rehydrate.core.text.content import collapsed_run
from rehydrate.postgres.compact import compacted, deflated, expanded, inflated

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
texts = st.one_of(st.text(), st.lists(st.sampled_from(TRICKS), max_size=5).map("".join))


def message(text: str, **facts: object) -> bytes:
    state = MessageState(facts.pop("id", "m"))
    parts = facts.pop("parts", [{"type": "text", "text": text}])
    state.runs = [collapsed_run(0, 0, parts, 5)]
    state.status, state.finished_ms = "completed", 5
    for name, value in facts.items():
        setattr(state, name, value)
    return wire.encode(state)


@given(text=texts, id_=texts, metadata=st.one_of(texts, st.dictionaries(texts, texts)))
def test_what_was_compacted_expands_to_the_same_bytes(text, id_, metadata) -> None:
    body = message(text, id=id_, metadata=metadata)
    assert expanded(compacted(body)) == body


@given(text=texts)
def test_a_plain_text_is_kept_once(text: str) -> None:
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
def test_other_messages_are_left_as_they_are(parts: list) -> None:
    body = message("", parts=parts)
    assert compacted(body) == body == expanded(body)


def test_metadata_that_looks_like_a_message_is_left_alone() -> None:
    lookalike = json.loads(message("inner"))
    for parts in ([{"type": "refusal", "text": "a"}], [{"type": "text", "text": "a"}]):
        body = message("", parts=parts, metadata=lookalike)
        assert expanded(compacted(body)) == body


@given(words=st.lists(st.one_of(texts, st.just("again and again"))))
def test_what_was_deflated_inflates_to_the_same_bytes(words: list[str]) -> None:
    body = dump([0, len(words), 0, [["text", None, words]], None])
    assert inflated(deflated(body)) == body
    assert len(deflated(body)) <= len(body)


def test_a_chunk_of_prose_is_much_smaller() -> None:
    said = "A chunk is read by few and only for as long as its response is open, but goes to the "
    said += "write-ahead log beside the final text: it is deflated. What is written goes to that "
    said += "log twice, once as the chunk, and once as the text that the response ends with."
    body = dump([0, 80, 0, [["text", None, said]], None])
    assert len(deflated(body)) < len(body) * 0.65


def test_a_chunk_that_was_stored_before_chunks_were_deflated_is_read() -> None:
    body = dump([0, 1, 0, [["text", None, "word"]], None])
    assert inflated(body) == body

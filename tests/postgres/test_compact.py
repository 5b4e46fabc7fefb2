"""Compacted messages contain their text once and are restored byte for byte."""

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


def message(text: str, **attributes: object) -> bytes:
    state = MessageState(attributes.pop("id", "m"))
    parts = attributes.pop("parts", [{"type": "text", "text": text}])
    state.runs = [collapsed_run(0, 0, parts, 5)]
    state.status, state.finished_ms = "completed", 5
    for name, value in attributes.items():
        setattr(state, name, value)
    return wire.encode(state)


@given(text=texts, id_=texts, metadata=st.one_of(texts, st.dictionaries(texts, texts)))
def test_expanding_a_compacted_message_restores_its_bytes(text, id_, metadata) -> None:
    body = message(text, id=id_, metadata=metadata)
    assert expanded(compacted(body)) == body


@given(text=texts)
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


@given(words=st.lists(st.one_of(texts, st.just("again and again"))))
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

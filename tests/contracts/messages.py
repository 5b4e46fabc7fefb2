"""Builders for message states, and helpers that write them as the recorder does."""

from __future__ import annotations

import json
from typing import Any

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.text.content import collapsed_run
from rehydrate.ports import Conversations

AT_MS = 1_763_720_000_123
UNICODE_IDS = ["é", "e\u0301", "語", "😀", "a b", "~", "%", "'", '"', "\\", "a/b", "A", "x" * 256]


def event_of(kind: str, message_id: str | None, seq: int | None = None, **more: Any) -> Event:
    """Return an event whose serial and time follow from its seq."""
    place = 0 if seq is None else seq
    given = {"serial": f"{AT_MS + place}-000@s:000", "id": f"{message_id}:{place}"}
    return Event(kind, message_id, seq=seq, timestamp_ms=AT_MS + place, **{**given, **more})


def response(message_id: str, *texts: str, ended: bool = False, **more: Any) -> MessageState:
    """Return a response, folded from a start and one token per text."""
    state = MessageState(message_id)
    fold(state, event_of("start", message_id, 0, **more))
    for seq, text in enumerate(texts, 1):
        fold(state, event_of("token", message_id, seq, text=text))
    if ended:
        fold(state, event_of("stop", message_id, len(texts) + 1))
    return state


def finished(message_id: str, position: str, text: str = "said") -> MessageState:
    """Return a finished message, as a backend imports it."""
    state = MessageState(message_id)
    state.runs = [collapsed_run(0, 0, [{"type": "text", "text": text}], AT_MS)]
    state.status, state.started_ms, state.finished_ms = "completed", AT_MS, AT_MS
    state.position = position
    return state


async def put(store: Conversations, conversation: str, *states: MessageState) -> None:
    async with store.locked(conversation, f"ai:{conversation}") as locked:
        await locked.put(states)


async def further(store: Conversations, conversation: str, *events: Event) -> None:
    """Fold *events* of one message onto its stored state, as the recorder does."""
    async with store.locked(conversation, f"ai:{conversation}") as locked:
        state = (await locked.messages({events[0].message_id}))[events[0].message_id]
        for event in events:
            fold(state, event)
        await locked.put([state])


def bodies(stored: Any) -> list[dict[str, Any]]:
    return [json.loads(row.wire) for row in stored.finished]

"""The types of the public API, checked by mypy and pyright and never run.

A line with ``# type: ignore`` and ``# pyright: ignore`` states that a call is a type error: both
checkers report an ignore that they do not need.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, assert_type

from ably.realtime.channel import RealtimeChannel
from fastapi import APIRouter, FastAPI
from starlette.requests import Request

from rehydrate import (
    History,
    Hydrated,
    Joined,
    JoinedView,
    NewMessage,
    RehydrateError,
    Response,
    Settings,
    View,
    join,
)
from rehydrate.core.positions import Cursor
from rehydrate.core.replay.schedule import Replay
from rehydrate.follow.event_buffer import FollowEvent
from rehydrate.maintenance.verify import Verified
from rehydrate.ports import Conversation
from rehydrate.providers.model_runs import Driven
from rehydrate.publish.unanswered import Prompt
from rehydrate.record.catch_up import Recorded
from rehydrate.record.import_messages import StoreResult


async def reading(history: History, before: Cursor) -> None:
    """Hydrate, and read single messages and lists."""
    answer = await history.hydrate("c", until="s", limit=10, before=before)
    assert_type(answer, Hydrated)
    assert_type(answer.messages, list[dict[str, Any]])
    assert_type(answer.body, bytes)
    assert_type(answer.complete, bool)
    assert_type(answer.until, str | None)
    assert_type(await history.message("c", "m"), bytes)
    assert_type(await history.conversations(), tuple[list[Conversation], Cursor | None])
    assert_type(await history.channel_of("c"), str)
    await history.hydrate("c", "s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await history.hydrate(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def following(history: History) -> None:
    """Follow a conversation, and take prompts as an agent."""
    assert_type(history.follow("c", limit=5), AsyncGenerator[FollowEvent, None])
    async for event in history.follow("c"):
        assert_type(event, FollowEvent)
        assert_type(event.kind, str)
    async for prompt in history.unanswered("c", wait=True):
        assert_type(prompt, Prompt)
        assert_type(prompt.text, str)
        assert_type(prompt.sent_ms, int | None)


async def publishing(history: History, client: Any) -> None:
    """Publish responses, prompts and cancels; run models; replay."""
    async with history.respond("c", "r", prompt_id="p", ephemeral=True) as response:
        assert_type(response, Response)
        assert_type(response.text, str)
        response.write("text", part="a")
        response.write(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        response.finish("completed", usage={"tokens": 5})
        response.finish("over")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await history.prompt("c", "Why?"), str)
    await history.cancel("c", "r")
    run = await history.run_openai("c", client, input="Why?", tools={"f": max}, model="m")
    assert_type(run, Driven)
    assert_type(run.prompt_id, str | None)
    assert_type(await history.run_openai_assistant("c", client, assistant_id="a"), Driven)
    assert_type(await history.replay("c", "r", mode="repair"), Replay)
    await history.replay("c", "r", mode="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def storing(history: History) -> None:
    """Store, record, verify and erase."""
    new = NewMessage("m", "user", text="hi")
    assert_type(await history.store_messages("c", [new]), StoreResult)
    assert_type(await history.catch_up("c"), Recorded)
    assert_type(await history.verify("c", mend=True), Verified)
    await history.erase("c")


async def serving(settings: Settings) -> None:
    """Open a history, and serve it."""

    async def authorize(request: Request, conversation_id: str) -> bool:
        return bool(request.headers) and conversation_id == "c"

    async with History(settings) as history:
        assert_type(history, History)
        assert_type(history.router(authorize=authorize), APIRouter)
        assert_type(history.app(), FastAPI)
        assert_type(await history.ready(), dict[str, str])
    opened: AbstractAsyncContextManager[History] = History()
    del opened


def viewing(answer: Hydrated, message: object) -> None:
    """Join an answer with live messages, as a client does."""
    view = View({"messages": answer.messages})
    assert_type(view.apply(message), bool)
    assert_type(view.messages, list[dict[str, Any]])
    assert_type(RehydrateError("broken").code, str)


async def joining(channel: RealtimeChannel) -> None:
    """Join a conversation with ably-python."""

    async def load(until: str | None = None) -> dict[str, Any]:
        return {"until": until}

    async def load_by_position(serial: str) -> dict[str, Any]:
        return {"until": serial}

    async with join(channel, load, way=2) as conversation:
        assert_type(conversation, Joined)
        async for view in conversation:
            assert_type(view, JoinedView)
            assert_type(view.messages, tuple[Mapping[str, Any], ...])
        assert_type(conversation.view, JoinedView | None)
        assert_type(conversation.error, Exception | None)
    join(channel, load, way=4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    join(channel, load_by_position)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

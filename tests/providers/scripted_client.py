"""Clients without a network, for tests that run thousands of answers."""

from __future__ import annotations

import asyncio
import copy
from types import SimpleNamespace
from typing import Any

from providers.sinks import Folded
from rehydrate.providers.responses_driver import run_responses


def responses_client(turns: list[list[Any]], asked: list[dict[str, Any]]) -> Any:
    """Return a client of the Responses API that answers with one of *turns* after the other."""

    async def create(**request: Any) -> list[Any]:
        asked.append(copy.deepcopy(request))
        return turns[len(asked) - 1]

    return SimpleNamespace(responses=SimpleNamespace(create=create))


def answered(turns: list[list[Any]], **more: Any) -> tuple[Folded, Any, list[dict[str, Any]]]:
    """Run the tool loop over *turns*; return what readers have, the outcome, and the requests."""
    sink, asked = Folded(), []
    client = responses_client(turns, asked)
    running = run_responses(sink, client, model="m", input="?", **more)
    return sink, asyncio.run(running), asked


def final_parts(sink: Folded) -> list[dict[str, Any]]:
    """Return the parts that readers have after the end of the answer."""
    return sink.parts if sink.final is None else sink.final


def assistants_client(turns: list[list[Any]], asked: list[dict[str, Any]]) -> Any:
    """Return a client of the Assistants API that answers with one of *turns* after the other."""

    async def post(path: str, *, body: dict[str, Any], **_: Any) -> Any:
        if path.endswith(("/cancel", "/messages")):
            return {"status": "cancelled"}
        asked.append(copy.deepcopy(body))
        return turns[len(asked) - 1]

    return SimpleNamespace(post=post)


def chat_client(turns: list[list[Any]], asked: list[dict[str, Any]]) -> Any:
    """Return a client of the Chat Completions API that answers with one of *turns* after the other."""

    async def create(**request: Any) -> list[Any]:
        asked.append(copy.deepcopy(request))
        return turns[len(asked) - 1]

    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))

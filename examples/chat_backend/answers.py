"""The answers that are under way: each a task, bounded in number, ended with the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import HTTPException

_log = logging.getLogger(__name__)


class Answers:
    """Starts answers, and ends them with the application.

    Args:
        answer: gives one, of (conversation id, prompt id, text, response id).
        most_each: how many may be under way in one conversation.
        most: how many in all.
    """

    def __init__(
        self,
        answer: Callable[[str, str, str, str], Awaitable[object]],
        *,
        most_each: int,
        most: int,
    ) -> None:
        self._answer = answer
        self._most_each = most_each
        self._most = most
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def check_room(self, conversation_id: str) -> None:
        """Raise 429 if no further answer is taken on."""
        here = sum(conversation == conversation_id for conversation, _ in self._running)
        if here >= self._most_each or len(self._running) >= self._most:
            raise HTTPException(429, "Too many answers are under way: wait for one to end.")

    def start(self, conversation_id: str, prompt_id: str, text: str) -> str:
        """Answer a prompt, unless that is under way; return the response's id."""
        response_id = f"r-{prompt_id}"
        key = (conversation_id, response_id)
        if key not in self._running:
            answering = self._guarded(conversation_id, prompt_id, text, response_id)
            task = self._running[key] = asyncio.create_task(answering, name="an answer")
            task.add_done_callback(lambda _: self._running.pop(key))
        return response_id

    async def close(self) -> None:
        """Cancel what is under way: everybody is told, and the model is stopped."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, *asked: str) -> None:
        try:
            await self._answer(*asked)
        except Exception as error:  # noqa: BLE001 - a task of ours has nobody else to tell
            _log.warning("an answer could not be given: %s", type(error).__name__)

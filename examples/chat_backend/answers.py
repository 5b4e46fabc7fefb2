"""The running answers: one task each, limited in number, cancelled at shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import HTTPException

_log = logging.getLogger(__name__)


class Answers:
    """Starts answers, and cancels them when the application shuts down.

    Args:
        answer: produces an answer: (conversation id, prompt id, text, response id).
        max_each: maximum number of running answers per conversation.
        max_total: maximum number of running answers in total.
    """

    def __init__(
        self,
        answer: Callable[[str, str, str, str], Awaitable[object]],
        *,
        max_each: int,
        max_total: int,
    ) -> None:
        self._answer = answer
        self._max_each = max_each
        self._max_total = max_total
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def check_room(self, conversation_id: str) -> None:
        """Raise 429 if a limit of running answers is reached."""
        here = sum(conversation == conversation_id for conversation, _ in self._running)
        if here >= self._max_each or len(self._running) >= self._max_total:
            raise HTTPException(429, "Too many answers are running. Wait for one to end.")

    def start(self, conversation_id: str, prompt_id: str, text: str) -> str:
        """Start to answer a prompt, unless that is running already; return the response's id."""
        response_id = f"r-{prompt_id}"
        key = (conversation_id, response_id)
        if key not in self._running:
            answering = self._guarded(conversation_id, prompt_id, text, response_id)
            task = self._running[key] = asyncio.create_task(answering, name="answer")
            task.add_done_callback(lambda _: self._running.pop(key))
        return response_id

    async def close(self) -> None:
        """Cancel the running answers: each response ends as cancelled, and the model stops."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _guarded(self, *asked: str) -> None:
        try:
            await self._answer(*asked)
        except Exception as error:  # noqa: BLE001 - nothing awaits the task: log it here
            _log.warning("an answer failed: %s", type(error).__name__)

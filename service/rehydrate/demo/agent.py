"""The demo's agent: streams several responses at once in one conversation, at a model's pace."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
import time
import uuid

from rehydrate.demo.texts import tokens_of
from rehydrate.errors import Fenced, Unavailable
from rehydrate.history import History
from rehydrate.record.import_messages import NewMessage

_log = logging.getLogger(__name__)

_PAUSE_S = (0.2, 0.8)


async def stream(
    history: History,
    conversation_id: str,
    *,
    lanes: int = 3,
    seconds: float | None = None,
    tokens_a_second: float = 12.0,
    mean: int = 90,
) -> int:
    """Store prompts and stream answers to them, *lanes* at a time.

    While the database or Ably is unreachable, responses fail and new ones are tried.

    Args:
        history: where to publish.
        conversation_id: the conversation to publish in.
        lanes: number of responses that stream at once.
        seconds: how long to start new responses; None: until cancelled.
        tokens_a_second: pace of each response.
        mean: mean number of tokens of a response.

    Returns:
        The number of responses that were streamed to their end.
    """
    until = None if seconds is None else time.monotonic() + seconds
    pace_s = 1 / tokens_a_second
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_stream_responses(history, conversation_id, until, pace_s, mean))
            for _ in range(lanes)
        ]
    return sum(task.result() for task in tasks)


async def _stream_responses(
    history: History, conversation_id: str, until: float | None, pace_s: float, mean: int
) -> int:
    streamed = 0
    while until is None or time.monotonic() < until:
        try:
            await _answer(history, conversation_id, pace_s, mean)
            streamed += 1
        except (Unavailable, Fenced) as error:
            if _is_cancelled():  # the block raised this error instead of the cancellation
                break
            _log.warning("could not finish a response: %s", error)
        await asyncio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - a pace
    return streamed


async def _answer(history: History, conversation_id: str, pace_s: float, mean: int) -> None:
    name = uuid.uuid4().hex[:12]
    prompt = NewMessage(f"p-{name}", "user", text=f"Tell me about {name}.")
    await history.store_messages(conversation_id, [prompt])
    response_id = f"r-{name}"
    async with history.respond(conversation_id, response_id, prompt_id=prompt.id) as response:
        for token in tokens_of(response_id, mean=mean):
            response.write(token)
            await asyncio.sleep(random.expovariate(1 / pace_s))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_agent(conversation_id: str, seconds: float | None) -> int:
    """Run the agent as a process, for *seconds* or until SIGTERM; open responses are ended first."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with History() as history:
        streaming = asyncio.create_task(stream(history, conversation_id, seconds=seconds))
        sys.stdout.write(f"ready {conversation_id}\n")
        sys.stdout.flush()
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait({streaming, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not streaming.done():
            streaming.cancel()
        await asyncio.gather(streaming, waiting, return_exceptions=True)
        if not streaming.cancelled() and (error := streaming.exception()) is not None:
            raise error
    return 0

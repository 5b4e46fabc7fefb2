"""Ephemeral responses: readers depend on checkpoints, half a second apart."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

from journeys.readers import assert_shown, by_javascript, by_python, plans, skip_without_node
from rehydrate.demo.texts import tokens_of
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

PAUSE_S = 0.05


async def publish(history, conversation_id, tokens):
    async with asyncio.TaskGroup() as group:
        for id_, said in tokens.items():
            group.create_task(_publish(history, conversation_id, id_, said))


async def _publish(history, conversation_id, id_, said):
    async with history.respond(conversation_id, id_, ephemeral=True) as response:
        for token in said:
            response.write(token)
            await asyncio.sleep(PAUSE_S)


async def hydrates(target):
    """Return how many answers the service has sent."""
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        metrics = (await http.get(f"{target.url}/metrics")).text
    return sum(map(float, re.findall(r"rehydrate_hydrates_total\{.*\} (\S+)", metrics)))


async def test_readers_show_every_character_after_at_most_one_retry(stack, history, conversation):
    skip_without_node()
    tokens = {f"{conversation}-{n}": tokens_of(f"{conversation}{n}", mean=150) for n in range(2)}
    texts = {id_: "".join(said) for id_, said in tokens.items()}
    target = stack.target(conversation)
    before = await hydrates(target)
    async with asyncio.TaskGroup() as group:
        group.create_task(publish(history, conversation, tokens))
        ours = group.create_task(by_python(target, texts, plans(4, 2)))
        theirs = group.create_task(by_javascript(target, texts, plans(4, 2)))
    shown = ours.result() + theirs.result()
    assert_shown(shown, texts)
    kept = [m.name async for page in history._channel.history(target.channel) for m in page]
    assert set(kept) == {"start", "stop"}
    assert await hydrates(target) - before <= 2 * len(shown)

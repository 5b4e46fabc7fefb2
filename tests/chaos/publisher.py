"""A publisher's process: answers the lines of its input, each a conversation and its responses."""

from __future__ import annotations

import asyncio
import json
import random
import sys

from rehydrate.demo.texts import tokens_of
from rehydrate.wiring.history import History

MEAN_TOKENS = 60
PACE_S = 1 / 30


async def answer(history, conversation_id, response_id, *, ephemeral):
    try:
        async with history.respond(conversation_id, response_id, ephemeral=ephemeral) as response:
            for token in tokens_of(response_id, mean=MEAN_TOKENS):
                response.write(token)
                await asyncio.sleep(random.expovariate(1 / PACE_S))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return f"{type(error).__name__}: {error}"
    return "completed"


async def tell(history, conversation_id, response_id, *, ephemeral):
    outcome = await answer(history, conversation_id, response_id, ephemeral=ephemeral)
    sys.stdout.write(json.dumps([response_id, outcome]) + "\n")
    sys.stdout.flush()


async def main():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with History() as history, asyncio.TaskGroup() as group:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        async for line in reader:
            asked = json.loads(line)
            for response_id in asked["responses"]:
                telling = tell(
                    history, asked["conversation"], response_id, ephemeral=asked["ephemeral"]
                )
                group.create_task(telling)


if __name__ == "__main__":
    asyncio.run(main())

"""A worker process of any version, which executes the commands on its standard input.

It uses only names of the public API that every version has, because it also runs with the code
before a migration.
"""

from __future__ import annotations

import asyncio
import json
import sys

from rehydrate import History

PACE_S = 0.05


def say(fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


async def publish(history, conversation_id, response_id, count):
    try:
        async with history.respond(conversation_id, response_id) as response:
            for number in range(count):
                response.write(f"{response_id}-{number} ")
                await asyncio.sleep(PACE_S)
    except Exception as error:  # noqa: BLE001 - every error is reported
        say({"ended": response_id, "outcome": f"{type(error).__name__}: {error}"})
    else:
        say({"ended": response_id, "outcome": "completed"})


async def look(history, conversation_id):
    hydrated = await history.hydrate(conversation_id)
    shown = {m["id"]: [m["text"], m["status"], m["gaps"]] for m in hydrated.messages}
    say({"shown": shown, "complete": hydrated.complete})


async def record(history, conversation_id):
    await history.catch_up(conversation_id)
    say({"recorded": conversation_id})


async def lines():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield json.loads(line)


async def main():
    acts = {"publish": publish, "look": look, "record": record}
    async with History() as history, asyncio.TaskGroup() as group:
        say({"ready": True})
        async for act, *arguments in lines():
            if act == "ready":
                await history.ready()
                say({"ready": True})
            else:
                group.create_task(acts[act](history, *arguments))


if __name__ == "__main__":
    asyncio.run(main())

"""A process of readers: `History.follow`, and stock ably-python with the README's join.

Each line of its input is a conversation to follow, or one to leave; each line it says is what one
of its readers shows of a conversation, whenever that has changed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from contextlib import suppress

import httpx
from ably import AblyRealtime
from ably.types.tokendetails import TokenDetails

from chaos.processes import said_to_us, say
from chaos.showing import Shown, of_messages
from rehydrate.ably.rest import AblyKey, Credentials
from rehydrate.demo.reader import join
from rehydrate.errors import RehydrateError
from rehydrate.history import History


class Telling:
    """Says what a reader of *conversation_id* shows, when that changes."""

    def __init__(self, conversation_id, kind):
        self._name = [conversation_id, kind]
        self._said = None

    def show(self, shown):
        said = json.dumps([*self._name, shown])
        if said != self._said:
            self._said = said
            say(said)


async def follow(history, conversation_id):
    """As a backend follows: by the library, again whenever it gives up."""
    telling = Telling(conversation_id, "library")
    while True:
        shown = Shown()
        with suppress(RehydrateError):
            async for event in history.follow(conversation_id):
                shown.take(event.kind, event.data)
                telling.show(shown.messages)
        await asyncio.sleep(random.uniform(0.1, 0.4))


class Server:
    """Where a stock client loads from: whichever service answers."""

    def __init__(self, client):
        self._client = client
        self._urls = itertools.cycle(os.environ["CHAOS_SERVICES"].split())

    async def load(self, conversation_id, until):
        for url in self._urls:
            with suppress(httpx.HTTPError):
                answer = await self._client.get(
                    f"{url}/v1/conversations/{conversation_id}",
                    params={"until": until} if until else {},
                )
                if answer.status_code == 200:
                    return answer.json()
            await asyncio.sleep(random.uniform(0.1, 0.3))
        return None


def stock_client():
    """A stock client as an app makes it, that does not wait long before it connects again."""
    signing = Credentials(AblyKey.parse(os.environ["ABLY_API_KEY"]), "reader", _no_time)

    async def token(params):
        details = await signing.details(params)
        return TokenDetails(token=details.token, expires=details.expires)

    return AblyRealtime(
        auth_callback=token,
        endpoint=f"{os.environ['ABLY_ENDPOINT']}:{os.environ['ABLY_PORT']}",
        tls=False,
        disconnected_retry_timeout=1000,
        suspended_retry_timeout=2000,
        channel_retry_timeout=1000,
        realtime_request_timeout=3000,
    )


async def _no_time():
    raise NotImplementedError


async def stock(server, conversation_id):
    """As a client joins: the README's lines, and a new client when they or the SDK fail."""
    telling = Telling(conversation_id, "stock")
    channel = os.environ["REHYDRATE_CHANNEL_TEMPLATE"].replace("{conversation_id}", conversation_id)

    async def load(until=None):
        return await server.load(conversation_id, until)

    def render(view):
        telling.show(of_messages(view.messages))

    for way in itertools.cycle(random.sample((1, 2, 3), 3)):
        ably = stock_client()
        try:
            await join(ably, channel, load, render, way)
        except Exception as error:  # noqa: BLE001 - of the SDK or of its socket: an app joins again
            say(["", "trouble", f"{type(error).__name__}: {error}"])
        finally:
            with suppress(Exception):
                async with asyncio.timeout(3):
                    await ably.close()
        await asyncio.sleep(random.uniform(0.2, 0.6))


async def main():
    readers = {}
    headers = {"Authorization": f"Bearer {os.environ['REHYDRATE_SERVICE_KEYS']}"}
    async with History() as history, httpx.AsyncClient(headers=headers, timeout=15) as client:
        server = Server(client)
        say("ready")
        async for asked in said_to_us():
            if "follow" in asked:
                id_ = asked["follow"]
                begun = (follow(history, id_), stock(server, id_))
                readers[id_] = [asyncio.create_task(each) for each in begun]
            for task in readers.pop(asked.get("leave"), []):
                task.cancel()


if __name__ == "__main__":
    asyncio.run(main())

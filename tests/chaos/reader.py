"""A process of readers: `History.follow`, and stock ably-python with the README's join.

Each line of its input is a conversation to follow, or one to leave; each line of its output is what
one of its readers shows of a conversation, at every change.
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

from chaos.processes import input_lines, print_line
from chaos.showing import Shown, of_messages
from rehydrate.ably.rest import AblyKey, Credentials
from rehydrate.demo.reader import show
from rehydrate.errors import RehydrateError
from rehydrate.history import History


class Reporter:
    """Prints what a reader of *conversation_id* shows, at every change."""

    def __init__(self, conversation_id, kind):
        self._name = [conversation_id, kind]
        self._last = None

    def show(self, shown):
        line = json.dumps([*self._name, shown])
        if line != self._last:
            self._last = line
            print_line(line)


async def follow(history, conversation_id):
    """Follow as a backend does: with the library, and again after an error."""
    reporter = Reporter(conversation_id, "library")
    while True:
        shown = Shown()
        with suppress(RehydrateError):
            async for event in history.follow(conversation_id):
                shown.apply(event.kind, event.data)
                reporter.show(shown.messages)
        await asyncio.sleep(random.uniform(0.1, 0.4))


class Server:
    """The services from which a stock client loads: the next that answers."""

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
    """Return a stock client as an app creates it, with short pauses before it reconnects."""
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
    """Join as a client does: with the README's code, and with a new client after an error."""
    reporter = Reporter(conversation_id, "stock")
    channel = os.environ["REHYDRATE_CHANNEL_TEMPLATE"].replace("{conversation_id}", conversation_id)

    async def load(until=None):
        return await server.load(conversation_id, until)

    def render(view):
        reporter.show(of_messages(view.messages))

    for way in itertools.cycle(random.sample((1, 2, 3), 3)):
        ably = stock_client()
        try:
            await show(ably, channel, load, render, way)
        except Exception as error:  # noqa: BLE001 - of the SDK or of its socket: an app joins again
            print_line(["", "trouble", f"{type(error).__name__}: {error}"])
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
        print_line("ready")
        async for command in input_lines():
            if "follow" in command:
                id_ = command["follow"]
                reading = (follow(history, id_), stock(server, id_))
                readers[id_] = [asyncio.create_task(each) for each in reading]
            for task in readers.pop(command.get("leave"), []):
                task.cancel()


if __name__ == "__main__":
    asyncio.run(main())

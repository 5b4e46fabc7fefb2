"""The behaviour of a channel service that the project relies on, observed with ably-python.

Each function is one fact. They run over the local channel server and, if a key is configured, over
Ably itself, since the local server is only useful as far as both agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from ably import AblyException, AblyRealtime, AblyRest
from ably.types.message import Message

from waiting import PATIENCE_S


@dataclass
class Service:
    """A channel service: its address, its key, and the clients to close at the end."""

    key: str
    endpoint: str | None = None
    port: int | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def realtime(self, **options):
        """Return a connected client."""
        if self.endpoint is not None:
            options |= {"endpoint": f"{self.endpoint}:{self.port}", "tls": False}
        client = AblyRealtime(self.key, **options)
        self._stack.push_async_callback(client.close)
        await asyncio.wait_for(client.connection.once_async("connected"), PATIENCE_S)
        return client

    async def rest(self, **options):
        """Return a REST client with a token, since the SDK sends keys over https only."""
        if not {"token", "key"} & options.keys():
            options |= {"key": self.key, "use_token_auth": True}
        if self.endpoint is not None:
            options |= {"endpoint": self.endpoint, "port": self.port, "tls": False}
        return await self._stack.enter_async_context(AblyRest(**options))

    async def close(self):
        await self._stack.aclose()


def a_name(prefix="contract"):
    """Return an unused channel name."""
    return f"{prefix}:{uuid.uuid4().hex}"


async def arriving(items, count):
    """Wait until *items* has *count* entries."""
    async with asyncio.timeout(PATIENCE_S):
        while len(items) < count:  # noqa: ASYNC110 - the SDK's listeners are plain functions
            await asyncio.sleep(0.01)
    return items


async def subscribed(client, name, **options):
    got = []

    def listen(message):
        got.append(message)

    channel = client.channels.get(name, **options)
    await channel.subscribe(listen)
    return got


async def messages_arrive_in_order_with_their_ids_and_texts(service):
    name, client = a_name(), await service.realtime()
    got = await subscribed(client, name)
    channel = client.channels.get(name)
    await asyncio.gather(
        *[channel.publish(Message(id=f"{name}-{n}", name="n", data=f"é日{n}")) for n in range(20)]
    )
    await arriving(got, 20)
    assert [m.data for m in got] == [f"é日{n}" for n in range(20)]
    assert [m.id for m in got] == [f"{name}-{n}" for n in range(20)]


async def serials_sort_in_the_order_of_delivery(service):
    name, client = a_name(), await service.realtime()
    got = await subscribed(client, name)
    for number in range(5):
        await client.channels.get(name).publish("n", str(number))
    await arriving(got, 5)
    serials = [m.serial for m in got]
    assert serials == [None] * 5 or serials == sorted(set(serials))


async def a_repeated_message_id_is_published_once(service):
    name, rest = a_name(), await service.rest()
    for _ in range(3):
        await rest.channels.get(name).publish(Message(id=name, name="n", data="x"))
    page = await rest.channels.get(name).history()
    assert [m.data for m in page.items] == ["x"]


async def headers_arrive_unchanged(service):
    name, client = a_name(), await service.realtime()
    got = await subscribed(client, name)
    extras = {"headers": {"responseId": "r-1", "seq": 7}}
    await client.channels.get(name).publish(Message(name="token", data="x", extras=extras))
    [message] = await arriving(got, 1)
    assert message.extras["headers"] == extras["headers"]


async def rewind_delivers_the_newest_messages_before_live_ones(service):
    name, client = a_name(), await service.realtime()
    for number in range(4):
        await client.channels.get(name).publish("n", str(number))
    for rewind, wanted in (("2", ["2", "3"]), ("1m", ["0", "1", "2", "3"])):
        reader = await service.realtime()
        got = await subscribed(reader, name, params={"rewind": rewind})
        await arriving(got, len(wanted))
        assert [m.data for m in got] == wanted
        assert reader.channels.get(name).params["rewind"] == rewind


async def rewind_is_limited_to_100_messages(service):
    name, client = a_name(), await service.realtime()
    channel = client.channels.get(name)
    for first in range(0, 120, 20):
        await channel.publish([Message(name="n", data=str(first + n)) for n in range(20)])
    got = await subscribed(await service.realtime(), name, params={"rewind": "2m"})
    await arriving(got, 100)
    assert [m.data for m in got] == [str(n) for n in range(20, 120)]


async def history_pages_contain_each_message_once_in_both_directions(service):
    name, rest = a_name(), await service.rest()
    channel = rest.channels.get(name)
    for number in range(7):
        await channel.publish("n", str(number))
    for direction, wanted in (("forwards", "0123456"), ("backwards", "6543210")):
        page = await channel.history(limit=3, direction=direction)
        found = [m.data for m in page.items]
        while page.has_next():
            page = await page.next()
            found += [m.data for m in page.items]
        assert "".join(found) == wanted


async def history_up_to_the_attach_point_is_complete_and_exact(service):
    name, client = a_name(), await service.realtime()
    channel = client.channels.get(name)
    await channel.publish("n", "before")
    reader = await service.realtime()
    got = await subscribed(reader, name)
    point = reader.channels.get(name)._RealtimeChannel__attach_serial
    await channel.publish("n", "after")
    await arriving(got, 1)
    rest = await service.rest()
    path = f"/channels/{quote(name, safe='')}/messages"
    page = await rest.request("GET", path, "5", params={"from_serial": point})
    assert [item["data"] for item in page.items] == ["before"]


async def a_dropped_connection_is_resumed_without_a_gap(service):
    name, client = a_name(), await service.realtime()
    got = await subscribed(client, name)
    rest = await service.rest()
    await rest.channels.get(name).publish("n", "1")
    await arriving(got, 1)
    manager = client.connection.connection_manager
    before = manager.connection_id
    await manager.transport.dispose()
    manager.notify_state("disconnected", retry_immediately=False)
    await rest.channels.get(name).publish("n", "2")
    client.connect()
    await arriving(got, 2)
    assert [m.data for m in got] == ["1", "2"]
    assert manager.connection_id == before


async def a_capability_is_enforced(service):
    name, rest = a_name(), await service.rest()
    details = await rest.auth.request_token({"capability": {name: ["history"]}})
    narrow = await service.rest(token=details.token)
    assert (await narrow.channels.get(name).history()).items == []
    for wrong in (
        narrow.channels.get(name).publish("n", "x"),
        narrow.channels.get(a_name()).history(),
    ):
        with pytest.raises(AblyException) as refused:
            await wrong
        assert refused.value.code == 40160


async def a_message_that_is_too_large_is_rejected_with_40009(service):
    rest = await service.rest()
    path = f"/channels/{quote(a_name(), safe='')}/messages"
    answer = await rest.request("POST", path, "5", body={"data": "x" * 300_000})
    assert (answer.status_code, int(answer.error_code)) == (400, 40009)


Fact = Callable[[Service], Awaitable[None]]
FACTS: tuple[Fact, ...] = (
    messages_arrive_in_order_with_their_ids_and_texts,
    serials_sort_in_the_order_of_delivery,
    a_repeated_message_id_is_published_once,
    headers_arrive_unchanged,
    rewind_delivers_the_newest_messages_before_live_ones,
    rewind_is_limited_to_100_messages,
    history_pages_contain_each_message_once_in_both_directions,
    history_up_to_the_attach_point_is_complete_and_exact,
    a_dropped_connection_is_resumed_without_a_gap,
    a_capability_is_enforced,
    a_message_that_is_too_large_is_rejected_with_40009,
)

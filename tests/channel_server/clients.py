"""Stock ably-python clients of a server, and how to wait for what they receive."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from ably import AblyRealtime, AblyRest

from localably import LocalAbly
from waiting import PATIENCE_S


@dataclass
class Clients:
    """Makes stock ably-python clients of one server."""

    server: LocalAbly
    binary: bool = True
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def realtime(self, key=None, **options):
        """Return a connected realtime client; the port goes into the endpoint (SDK issue 567)."""
        if not {"token", "auth_callback", "key"} & options.keys():
            options["key"] = key or self.server.key
        options.setdefault("use_binary_protocol", self.binary)
        client = AblyRealtime(endpoint=f"127.0.0.1:{self.server.port}", tls=False, **options)
        self._stack.push_async_callback(client.close)
        await asyncio.wait_for(client.connection.once_async("connected"), PATIENCE_S)
        return client

    async def rest(self, **options):
        """Return a REST client; the SDK wants a token over http."""
        if not {"token", "key"} & options.keys():
            options |= {"key": self.server.key, "use_token_auth": True}
        options.setdefault("use_binary_protocol", self.binary)
        client = AblyRest(endpoint="127.0.0.1", port=self.server.port, tls=False, **options)
        return await self._stack.enter_async_context(client)

    async def close(self):
        await self._stack.aclose()


async def arrives(items, count, *, within_s=PATIENCE_S):
    """Wait until *items* has *count* entries, and return them."""
    deadline = asyncio.get_running_loop().time() + within_s
    while len(items) < count:
        assert asyncio.get_running_loop().time() < deadline, f"only {len(items)} of {count} arrived"
        await asyncio.sleep(0.005)
    return items


def into(items):
    """Return a listener that appends; the SDK takes plain functions only."""

    def listener(item):
        items.append(item)

    return listener

"""The processes of a soak, with channels of every namespace."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import jwt

from chaos.processes import Process
from chaos.world import free_port
from rehydrate import History
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.postgres.migrations import migrate
from rehydrate.settings import load_settings
from soak.node import Node

KEY = "soak.key:" + "k" * 32
LEASE_S = 8.0
"""Longer than a machine that runs all of this at once may delay a publisher."""

_STARTS = 30

_CHANNELS = "[settings]\nmax_idle_interval_s = 3.0\nconnection_rate_per_s = 15\n"
"""How soon stock SDKs notice that a connection is dead, at the earliest; and a rate that a soak exceeds
when the limits are enforced: Ably's is 50 a second, and our publishers stay below it."""


class Service(Process):
    """A process that can be terminated, and whose start is retried until Postgres answers."""

    async def start(self):
        for _ in range(_STARTS):
            try:
                return await super().start()
            except AssertionError:
                await asyncio.sleep(1)
        return await super().start()

    def freeze(self):
        """Suspend it, if it still runs."""
        with suppress(ProcessLookupError):
            self.pause()

    def thaw(self):
        with suppress(ProcessLookupError):
            self.resume()

    async def kill_and_start(self):
        """kill -9, and start; return how many processes that ended: 1, or 0 if it did not run."""
        killed = await self.kill()
        await self.start()
        return killed

    async def restart(self):
        """SIGTERM, wait for the end, and start, as a deployment does; return 1."""
        process, self._process = self._process, None
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
        await self._reading
        await self.start()
        return 1


class SoakWorld:
    """Postgres, the channel server, two services, publishers that may die, and this process.

    The id of a conversation is also its channel name, so that it determines the namespace.

    Attributes:
        author, watcher: the `History` of a publisher and of a follower, in this process.
        node: the readers with ably-js; None without Node.js.
        forgetful: channels whose history may be dropped, because the store has it as well.
    """

    def __init__(self, folder):
        self._folder = Path(folder)
        self.postgres = EmbeddedPostgres(self._folder / "postgres")
        self.database_url = None
        self.channel_port = free_port()
        self._ports = [free_port(), free_port()]
        self.client = httpx.AsyncClient(timeout=15)
        self.channels = self.author = self.watcher = self.node = None
        self.services = []
        self.forgetful = set()
        self._victims = itertools.count()

    def _process(self, name, *argv):
        environment = {
            "REHYDRATE_DATABASE_URL": self.database_url,
            "ABLY_API_KEY": KEY,
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(self.channel_port),
            "ABLY_TLS": "false",
            "REHYDRATE_CHANNEL_TEMPLATE": "{conversation_id}",
            "REHYDRATE_LEASE_SECONDS": str(LEASE_S),
        }
        return Service(*argv, environment=environment, log=self._folder / f"{name}.log")

    async def start(self):
        await asyncio.to_thread(self.postgres.start)
        self.database_url = self.postgres.url
        await migrate(self.database_url)
        config = self._folder / "channels.toml"
        config.write_text(_CHANNELS)
        local = ("localably", "--port", str(self.channel_port), "--key", KEY)
        more = ("--config", str(config), "--data-dir", str(self._folder / "channels"))
        self.channels = self._process("channels", *local, *more)
        await self.channels.start()
        for port in self._ports:
            serve = ("rehydrate", "serve", "--port", str(port))
            self.services.append(self._process(f"service-{port}", *serve))
        await asyncio.gather(*(each.start() for each in self.services))

    async def end(self):
        for each in (*self.services, self.channels):
            if each is not None:
                await each.kill()
        await self.client.aclose()
        await asyncio.to_thread(self.postgres.stop)

    async def stop_postgres(self):
        """Stop Postgres immediately, as a lost machine does, and start it; return the stops: 1."""
        stopped = self.postgres.pid
        os.kill(stopped, signal.SIGQUIT)
        await asyncio.sleep(0.2)
        async with asyncio.timeout(60):
            while True:
                with suppress(Exception):
                    await asyncio.to_thread(self.postgres.start)
                    return int(self.postgres.pid != stopped)
                await asyncio.sleep(0.1)

    async def control(self, method, path, body=None):
        """Request something of the channel server's control endpoint; return the parsed answer."""
        url = f"http://127.0.0.1:{self.channel_port}/localably/{path}"
        answer = await self.client.request(method, url, json=body)
        return answer.raise_for_status().json()

    @asynccontextmanager
    async def victim(self):
        """Run a publisher in a process of its own, which may be killed, for the block."""
        victim = self._process(f"victim-{next(self._victims)}", "chaos.publisher")
        await victim.start()
        try:
            yield victim
        finally:
            if victim._process is not None and victim._process.returncode is not None:
                sys.stderr.write(f"a publisher ended by itself: {victim._log.read_text()[-800:]}\n")
            await victim.kill()

    @property
    def ably(self):
        """The options with which a stock realtime client connects, without its key or token."""
        return {"endpoint": f"127.0.0.1:{self.channel_port}", "tls": False}

    @property
    def ably_rest(self):
        return {"endpoint": "127.0.0.1", "port": self.channel_port, "tls": False}

    def history(self, **more):
        """Return a new `History` in this process; *more*: settings."""
        return History(
            load_settings(
                database_url=self.database_url,
                ably_api_key=KEY,
                ably_endpoint="127.0.0.1",
                ably_port=self.channel_port,
                ably_tls=False,
                channel_template="{conversation_id}",
                lease_s=LEASE_S,
                **more,
            )
        )

    def url(self, conversation_id, *, service=0):
        return f"http://127.0.0.1:{self._ports[service]}/v1/conversations/{conversation_id}"

    def token(self, conversation_id):
        """Return a reader's token for one conversation."""
        name, _, secret = KEY.partition(":")
        now_s = int(time.time())
        claims = {
            "iat": now_s,
            "exp": now_s + 3600,
            "x-ably-capability": json.dumps({conversation_id: ["subscribe", "history"]}),
        }
        return jwt.encode(claims, secret, "HS256", headers={"kid": name})


@asynccontextmanager
async def running_world(*, with_node=True):
    """Start a world, and stop it after the block."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
        world = SoakWorld(folder)
        stack.push_async_callback(world.end)
        await world.start()
        world.author = await stack.enter_async_context(world.history())
        watcher = world.history(follow_strategy="history")
        world.watcher = await stack.enter_async_context(watcher)
        if with_node:
            world.node = Node(world)
            stack.push_async_callback(world.node.end)
            await world.node.start()
        yield world

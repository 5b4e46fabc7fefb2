"""The processes that rounds of chaos are played on: all real, each killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx

from rehydrate.channel.ably import AblyChannel
from rehydrate.core.content import spoken_text
from rehydrate.core.dialects import decode_all
from rehydrate.core.timeline import Timeline
from rehydrate.store.embedded import EmbeddedPostgres
from rehydrate.store.migrations import migrate

KEY = "chaos.key:" + "k" * 32
SERVICE_KEY = "the-service-key-of-chaos"
LEASE_S = 2.0
READY_S = 60.0
TESTS = Path(__file__).parent.parent


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Process:
    """A process that is started, killed, and started again as it was."""

    def __init__(self, *argv, environment, log):
        self._argv = argv
        self._environment = environment
        self._log = log
        self._process = None
        self._reading = None
        self.lines = asyncio.Queue()

    async def start(self):
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._argv,
                env=self._environment,
                stdin=subprocess.PIPE,  # whoever reads it ends with us
                stdout=subprocess.PIPE,
                stderr=log,
            )
        async with asyncio.timeout(READY_S):
            line = await self._process.stdout.readline()
        assert line.startswith(b"ready"), f"{self._argv} ended: see {self._log}"
        self._reading = asyncio.create_task(self._read(self._process.stdout))

    async def kill(self, number=signal.SIGKILL):
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        async with asyncio.timeout(60):
            await self._process.wait()
        self._process = None
        await self._reading

    async def again(self):
        await self.kill()
        await self.start()

    def say(self, said):
        self._process.stdin.write(json.dumps(said).encode() + b"\n")

    async def _read(self, output):
        async for line in output:
            self.lines.put_nowait(line)


class World:
    """Postgres, the channel server, two services, one publisher."""

    def __init__(self, folder, *, keeps_channels):
        self.folder = Path(folder)
        self.keeps_channels = keeps_channels
        self.postgres = EmbeddedPostgres(self.folder / "postgres")
        self.ports = [free_port(), free_port()]
        self.channel_port = free_port()
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {SERVICE_KEY}"}, timeout=15
        )
        self.channels = self.publisher = None
        self.services = []

    @property
    def template(self):
        return ("persisted:" if self.keeps_channels else "ai:") + "{conversation_id}"

    def process(self, name, *argv, **more):
        environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "REHYDRATE_DATABASE_URL": self.postgres.url,
            "ABLY_API_KEY": KEY,
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(self.channel_port),
            "ABLY_TLS": "false",
            "REHYDRATE_CHANNEL_TEMPLATE": self.template,
            "REHYDRATE_RETENTION": "24h" if self.keeps_channels else "2m",
            "REHYDRATE_LEASE_SECONDS": str(LEASE_S),
            "REHYDRATE_SERVICE_KEYS": SERVICE_KEY,
            **more,
        }
        return Process("-m", *argv, environment=environment, log=self.folder / f"{name}.log")

    async def start(self):
        await asyncio.to_thread(self.postgres.start)
        await migrate(self.postgres.url)
        port, data = str(self.channel_port), str(self.folder / "channels")
        local = ("rehydrate.localably", "--port", port, "--key", KEY, "--data-dir", data)
        self.channels = self.process("channels", *local)
        await self.channels.start()
        self.services = [
            self.process(f"service-{port}", "rehydrate", "serve", "--port", str(port))
            for port in self.ports
        ]
        self.publisher = self.process("publisher", "chaos.publisher")
        await asyncio.gather(*(each.start() for each in (*self.services, self.publisher)))

    async def end(self):
        for each in (self.publisher, *self.services, self.channels):
            if each is not None:
                await each.kill()
        await self.client.aclose()
        await asyncio.to_thread(self.postgres.stop)

    async def stop_postgres(self):
        """An immediate stop, as of a lost machine; whoever guards it starts it again."""
        os.kill(self.postgres.pid, signal.SIGQUIT)
        await asyncio.sleep(0.2)
        async with asyncio.timeout(30):
            while True:
                with suppress(Exception):
                    await asyncio.to_thread(self.postgres.start)
                    return
                await asyncio.sleep(0.1)

    async def control(self, method, path, body=None):
        url = f"http://127.0.0.1:{self.channel_port}/localably/{path}"
        with suppress(httpx.HTTPError):
            await self.client.request(method, url, json=body)

    async def hydrated(self, conversation_id):
        """The conversation as some service answers; None if none does just now."""
        for port in self.ports:
            url = f"http://127.0.0.1:{port}/v1/conversations/{conversation_id}"
            with suppress(httpx.HTTPError):
                answer = await self.client.get(url)
                if answer.status_code == 200:
                    return answer.json()
        return None

    async def said(self, conversation_id):
        """The texts that the channel shows, by response."""
        how = {"endpoint": "127.0.0.1", "port": self.channel_port, "tls": False}
        timeline = Timeline()
        async with AblyChannel(KEY, **how) as log:
            name = self.template.format(conversation_id=conversation_id)
            async for page in log.history(name, forwards=True):
                timeline.fold(decode_all(page))
        return {id_: spoken_text(each.parts()) for id_, each in timeline.messages.items()}


@asynccontextmanager
async def running(*, keeps_channels):
    """A world, while the block runs."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        world = World(folder, keeps_channels=keeps_channels)
        stack.push_async_callback(world.end)
        await world.start()
        yield world

"""The world of a round: real processes, each of which is killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import httpx

from chaos.clock import Clocks
from chaos.disk import Disk
from chaos.processes import Process
from chaos.proxy import Proxy
from rehydrate.ably.channel_log import AblyChannel
from rehydrate.core.codecs import decode_all
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.timeline import Timeline
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.errors import ChannelUnavailable
from rehydrate.postgres.migrations import migrate

KEY = "chaos.key:" + "k" * 32
SERVICE_KEY = "the-service-key-of-chaos"
LEASE_S = 10.0
"""Shorter than the default of 15 s. The end of a response has to be shown within two leases: it takes
one lease, about 4 s, and about 10 s until a dead connection is noticed."""

_CHANNELS = "[settings]\nmax_idle_interval_s = 2.0\n"
"""How soon stock SDKs notice a dead connection: Ably's 15 s, shortened as the lease is."""

_STOPS_WITHIN_S = 60.0
_CONTROL_TIMEOUT_S = 60.0  # a busy machine may not schedule the channel server for long

_MIGRATING = asyncio.Lock()
"""Alembic can run only once at a time in a process."""


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class World:
    """Postgres, the channel server, two services, two publishers, and readers.

    Attributes:
        shown: what readers in other processes show, by conversation and kind.
        losses: how often the channel server lost its channels.
        half_open: whether connections were made half-open in this round.
        set_back: whether the clock of the readers was set back in this round.
        conversation_id: the conversation of the round.
        deaths: how often each publisher was killed or suspended for longer than its lease, by name.
        refusals: the database's errors when its disk was full, with their number.
        skipped: faults that are not possible here, and why.
    """

    def __init__(self, folder, *, keeps_channels, no_mounts=None):
        self.folder = Path(folder)
        self.keeps_channels = keeps_channels
        self.disk = Disk(self.folder / "postgres", no_mounts)
        self.clocks = Clocks(self.folder)
        self.postgres = EmbeddedPostgres(self.folder / "postgres")
        self.channel_port, self._proxy_port = free_port(), free_port()
        self.proxy = Proxy(self._proxy_port, self.channel_port)
        self.urls = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {SERVICE_KEY}"}, timeout=15
        )
        self.channels = self.readers = None
        self.services, self.publishers = [], []
        self.shown = defaultdict(dict)
        self.troubles = []
        self.losses = 0
        self.half_open = self.set_back = False
        self.conversation_id = None
        self.deaths = Counter()
        self.refusals = Counter()
        skipped = {"disk_is_full": self.disk.why_not, "clocks_are_set": self.clocks.why_not}
        self.skipped = {name: why for name, why in skipped.items() if why is not None}
        self._reading = None

    @property
    def template(self):
        return ("persisted:" if self.keeps_channels else "ai:") + "{conversation_id}"

    @property
    def blinded(self):
        """True if a stock client's SDK may notice a dead connection late."""
        return self.half_open and self.set_back

    @property
    def own_processes(self):
        """Our own processes, which have clocks of their own."""
        return [*self.services, *self.publishers, self.readers]

    def process(self, name, *argv, timed=True):
        environment = {
            "CHAOS_KILLED": str(self.folder / f"{name}.killed"),
            "REHYDRATE_DATABASE_URL": self.postgres.url,
            "ABLY_API_KEY": KEY,
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(self._proxy_port),
            "ABLY_TLS": "false",
            "REHYDRATE_CHANNEL_TEMPLATE": self.template,
            "REHYDRATE_RETENTION": "24h" if self.keeps_channels else "2m",
            "REHYDRATE_LEASE_SECONDS": str(LEASE_S),
            "REHYDRATE_SERVICE_KEYS": SERVICE_KEY,
            "CHAOS_SERVICES": " ".join(self.urls),
            **(self.clocks.environment(name) if timed else {}),
        }
        return Process(*argv, environment=environment, log=self.folder / f"{name}.log")

    async def start(self):
        await asyncio.to_thread(self.postgres.start)
        async with _MIGRATING:
            await migrate(self.postgres.url)
        config = self.folder / "channels.toml"
        config.write_text(_CHANNELS)
        local = ("localably", "--port", str(self.channel_port), "--key", KEY)
        more = ("--config", str(config), "--data-dir", str(self.folder / "channels"))
        self.channels = self.process("channels", *local, *more, timed=False)
        await self.channels.start()
        await self.proxy.start()
        for number, url in enumerate(self.urls):
            serve = ("chaos.service", "serve", "--port", url.rpartition(":")[2])
            self.services.append(self.process(f"service-{number}", *serve))
        self.publishers = [self.process(f"publisher-{n}", "chaos.publisher") for n in range(2)]
        self.readers = self.process("readers", "chaos.reader")
        await asyncio.gather(*(each.start() for each in self.own_processes))
        self._reading = asyncio.create_task(self._read_shown())

    async def end(self):
        if self._reading is not None:
            self._reading.cancel()
        for each in (*self.own_processes, self.channels):
            if each is not None:
                await each.kill()
        await self.proxy.close()
        await self.client.aclose()
        self.disk.free()
        await asyncio.to_thread(self.postgres.stop)
        self.disk.close()

    async def stop_postgres(self, number):
        """Stop Postgres with a signal, and start it; return the stops: 1.

        Args:
            number: SIGQUIT stops it immediately, as a lost machine does, SIGINT cleanly.
        """
        stopped = self.postgres.pid
        os.kill(stopped, number)
        async with asyncio.timeout(_STOPS_WITHIN_S):
            while Path(f"/proc/{stopped}").exists():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        await self.start_postgres()
        return int(self.postgres.pid != stopped)

    @asynccontextmanager
    async def database(self):
        """Connect to the database for the length of the block."""
        connection = await asyncpg.connect(self.postgres.url, timeout=5)
        try:
            yield connection
        finally:
            await connection.close(timeout=2)

    async def start_postgres(self):
        """Start Postgres; return when it answers."""
        async with asyncio.timeout(60):
            while True:
                with suppress(Exception):
                    await asyncio.to_thread(self.postgres.start)
                    return
                await asyncio.sleep(0.1)

    def kill_tasks(self):
        """Have every service and publisher cancel its background tasks, from outside."""
        for each in (*self.services, *self.publishers):
            each.send_signal(signal.SIGUSR1)

    def killed_tasks(self):
        """How many background tasks were cancelled in this world so far."""
        files = self.folder.glob("*.killed")
        return sum(int(count) for file in files for count in file.read_text().split())

    async def restart_channels(self):
        if not self.keeps_channels:
            self.losses += 1
        killed = await self.channels.kill()
        await self.channels.start()
        return killed

    async def control(self, method, path, body=None):
        """Request something of the channel server's control endpoint; return the parsed answer."""
        url = f"http://127.0.0.1:{self.channel_port}/localably/{path}"
        answer = await self.client.request(method, url, json=body, timeout=_CONTROL_TIMEOUT_S)
        return answer.raise_for_status().json()

    async def hydrated(self, conversation_id):
        """Return the conversation as each service answers it; None for one that does not answer."""
        answers = []
        for url in self.urls:
            answers.append(None)
            with suppress(httpx.HTTPError):
                answer = await self.client.get(f"{url}/v1/conversations/{conversation_id}")
                if answer.status_code == 200:
                    answers[-1] = answer.json()
        return answers

    async def channel_texts(self, conversation_id):
        """Return the texts of the channel's history, by response."""
        async with asyncio.timeout(_CONTROL_TIMEOUT_S):
            while True:
                with suppress(ChannelUnavailable):
                    return await self._channel_texts(conversation_id)
                await asyncio.sleep(1)

    async def _channel_texts(self, conversation_id):
        how = {"endpoint": "127.0.0.1", "port": self.channel_port, "tls": False}
        timeline = Timeline()
        async with AblyChannel(KEY, **how) as log:
            name = self.template.format(conversation_id=conversation_id)
            async for page in log.history(name, forwards=True):
                timeline.fold(decode_all(page))
        return {id_: spoken_text(each.parts()) for id_, each in timeline.messages.items()}

    async def _read_shown(self):
        while True:
            conversation_id, kind, shown = json.loads(await self.readers.lines.get())
            if kind == "trouble":
                self.troubles.append(shown)
            else:
                self.shown[conversation_id][kind] = shown


@asynccontextmanager
async def running(*, keeps_channels, no_mounts=None, folder=None):
    """Start a world, and stop it after the block; *folder*: its folder, which is then kept."""
    async with AsyncExitStack() as stack:
        where = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        world = World(where, keeps_channels=keeps_channels, no_mounts=no_mounts)
        stack.push_async_callback(world.end)
        await world.start()
        yield world

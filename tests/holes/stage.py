"""One conversation of a row: its channel, its publishers, the application's database, its readers."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from ably import AblyRealtime
from ably.types.message import Message

from api.minting import mint
from appending import Appender, appender_to
from holes.house import HEARTBEAT_S
from holes.readers import Ours
from holes.recipes import PATIENCE_S, Row
from rehydrate import NewMessage

TESTS = Path(__file__).parents[1]


class Target(NamedTuple):
    """What a reader needs to know."""

    url: str
    channel: str
    token: str
    endpoint: str
    port: int


class Speaker:
    """A response that our library publishes, token by token, each on the channel before the next."""

    def __init__(self, stage, rid, block):
        self.id = rid
        self._stage = stage
        self._block = block
        self._seq = 0
        self.response = None

    async def begin(self):
        self.response = await self._block.__aenter__()
        await self._stage.heard(self.id, 0)
        return self

    async def say(self, *tokens, refused=False):
        for token in tokens:
            self.response.write(token)
            self._seq += 1
            if not refused:
                await self._stage.heard(self.id, self._seq)

    async def end(self, error=None):
        """End it as the block would; *error*: what the block raised."""
        if self._block is None:
            return
        block, self._block = self._block, None
        kind = None if error is None else type(error)
        try:
            await block.__aexit__(kind, error, None)
        except BaseException as raised:
            if raised is not error:
                raise


@asynccontextmanager
async def staged(house):
    """A conversation in *house*, while the block runs."""
    made = Stage(house)
    try:
        yield made
    finally:
        await made.close()


class Stage:
    """One conversation. *database* is what the application itself has stored; *truth*, by id."""

    def __init__(self, house):
        self.house = house
        self.server = house.server
        self.history = house.history
        self.id = f"h-{secrets.token_hex(5)}"
        self.channel = house.history.settings.channel_of(self.id)
        self.path = f"/v1/conversations/{self.id}"
        self.database = []
        self.truth = {}
        self.created_s = time.monotonic()
        self._stack = AsyncExitStack()
        self._publisher = None

    async def close(self):
        self.server.faults.clear()
        self.house.service.release(self.path)
        await self.another_connection()
        await self._stack.aclose()

    @property
    def _log(self):
        found = [c.log for c in self.server.hub.channels() if c.name == self.channel]
        return found[0] if found else ()

    def on_channel(self):
        """The channel's messages as the server keeps them, oldest first."""
        log = self._log
        return [log.find(serial) for serial in log._rows[log._start :]] if log else []

    async def heard(self, rid, seq):
        """Wait until that event is on the channel."""
        async with asyncio.timeout(PATIENCE_S):
            while (rid, seq) not in self._said():  # noqa: ASYNC110 - others say it
                await asyncio.sleep(HEARTBEAT_S)

    def _said(self):
        extras = [each.fields.get("extras") or {} for each in self.on_channel()]
        headers = [each.get("headers") or {} for each in extras]
        return {(each.get("responseId"), each.get("seq")) for each in headers}

    async def begin(self, rid, **more):
        """Our library begins to publish a response."""
        speaker = Speaker(self, rid, self.history.respond(self.id, rid, **more))
        await speaker.begin()
        self._stack.push_async_callback(speaker.end)
        return speaker

    async def respond(self, rid, *tokens, **more):
        """A whole response by our library; the application stores it too."""
        speaker = await self.begin(rid, **more)
        await speaker.say(*tokens)
        await speaker.end()
        self.store(rid, "".join(tokens))

    async def say(self, name, data=None, *, rid=None, id_=None, **headers):
        """A message by another program, with a stock ably-python; its serial."""
        if self._publisher is None:
            where = f"127.0.0.1:{self.server.port}"
            self._publisher = AblyRealtime(key=self.server.key, endpoint=where, tls=False)
        found = {"responseId": rid, **headers}
        found = {key: value for key, value in found.items() if value is not None}
        extras = {"headers": found} if found else None
        said = Message(name=name, data=data, extras=extras, id=id_)
        return (await self._publisher.channels.get(self.channel).publish(said)).serials[0]

    async def another_connection(self):
        """What is said from now on comes over another connection."""
        if self._publisher is not None:
            self._stack.push_async_callback(self._publisher.close)
        self._publisher = None

    async def tell(self, rid, *tokens, first=1, stop=False, **headers):
        """A response by another program that numbers its events, as the README shows it."""
        if first == 1:
            await self.say("start", rid=rid, seq=0, **headers)
        for seq, token in enumerate(tokens, first):
            await self.say("token", token, rid=rid, seq=seq, **headers)
        if stop:
            await self.say("stop", rid=rid, seq=first + len(tokens), **headers)

    async def appender(self):
        """Another program that says responses by appends."""
        return await self._stack.enter_async_context(appender_to(self.server, self.channel))

    async def holding_appender(self, window_ms):
        """As `appender`, by a connection whose appends Ably holds back, to deliver some at once."""
        ably = AblyRealtime(
            key=self.server.key,
            endpoint=f"127.0.0.1:{self.server.port}",
            tls=False,
            transport_params={"appendRollupWindow": str(window_ms)},
        )
        self._stack.push_async_callback(ably.close)
        return Appender(ably.channels.get(self.channel))

    async def ask(self, **asked):
        """The service's answer to a reader."""
        target = self.target()
        headers = {"authorization": f"Bearer {target.token}"}
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            answer = await http.get(target.url, headers=headers, params=asked)
        return answer.raise_for_status().json()

    def created_ms(self, rid):
        """When the first channel message of a response was created."""
        for message in self.on_channel():
            extras = message.fields.get("extras") or {}
            if (extras.get("headers") or {}).get("responseId") == rid:
                return message.timestamp_ms
        return 0

    def store(self, rid, text):
        """The application stores a response that has ended."""
        self.database.append(Row(rid, text, self.created_ms(rid)))

    async def store_everywhere(self, rid, text):
        """As `store`; and it tells the service, since the response is not of our library."""
        self.store(rid, text)
        await self.history.store_messages(self.id, [NewMessage(rid, "assistant", text=text)])

    async def record(self):
        """What a webhook has the service do: store what the channel says."""
        while not (await self.history.catch_up(self.id)).moved:
            pass  # the service's own recorder was quicker, and may have read earlier

    def forget(self):
        """The channel's retention has passed."""
        self.server.expire(self.channel)

    def fault(self, name, **parameters):
        return self.server.faults.on(name, channel=self.channel, **parameters)

    def recipe(self, kind):
        """A reader of that recipe, who does only what the test says."""
        made = kind(self.server, self.channel, self.database)
        self._stack.push_async_callback(made.close)
        return made

    def target(self):
        capability = {self.channel: ["subscribe", "history"]}
        return Target(
            f"{self.house.url}{self.path}",
            self.channel,
            mint(capability, key=self.server.key),
            "127.0.0.1",
            self.server.port,
        )

    async def readers(self):
        """Our readers, who have joined."""
        made = self._readers()
        await made.joined()
        return made

    async def waiting_readers(self):
        """Our readers, whose first answers are on their way: `answer` lets them through."""
        self.house.service.hold(self.path)
        made = self._readers()
        async with asyncio.timeout(PATIENCE_S):
            while self.house.service.held(self.path) < made.asking:  # noqa: ASYNC110 - as above
                await asyncio.sleep(HEARTBEAT_S)
        return made

    def answer(self):
        self.house.service.release(self.path)

    def _readers(self):
        made = Ours(self.target(), self.truth, self.house.node)
        self._stack.push_async_callback(made.close)
        made.join()
        return made

    async def process(self, rid, *tokens, keeps=True, ends=False):
        """A process that publishes *tokens* by our library: to be killed."""
        job = {"conversation": self.id, "keeps": keeps, "ends": ends}
        return await self._process(rid, tokens, job)

    async def appending_process(self, rid, *tokens):
        """A process that appends *tokens* with a stock ably-python: to be killed."""
        server = {"key": self.server.key, "port": self.server.port}
        return await self._process(rid, tokens, {"channel": self.channel, "server": server})

    async def _process(self, rid, tokens, job):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holes.publisher"),
            json.dumps({"id": rid, "tokens": tokens, **job}),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                **self.house.environment,
            },
        )

        async def end():
            if process.returncode is None:
                process.kill()
            await process.wait()

        self._stack.push_async_callback(end)
        return process

    async def keeps(self, rid, text):
        """Wait until the store has *text* of a response."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._kept(rid) != text:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(HEARTBEAT_S)

    async def _kept(self, rid):
        states = await self.history._store.states(self.id, {rid})
        return "".join(part["text"] for state in states for part in state.parts())

"""The conversation of a row: its channel, publishers, application database and readers."""

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
from holes.environment import HEARTBEAT_S
from holes.readers import OurReaders
from holes.recipes import PATIENCE_S, Row
from rehydrate import NewMessage

TESTS = Path(__file__).parents[1]


class Target(NamedTuple):
    """What a reader needs in order to join."""

    url: str
    channel: str
    token: str
    endpoint: str
    port: int


class OwnResponse:
    """A response that our library publishes; each token is on the channel before the next."""

    def __init__(self, stage, rid, block):
        self.id = rid
        self._stage = stage
        self._block = block
        self._seq = 0
        self.response = None

    async def begin(self):
        self.response = await self._block.__aenter__()
        await self._stage.wait_for_event(self.id, 0)
        return self

    async def write(self, *tokens, refused=False):
        for token in tokens:
            self.response.write(token)
            self._seq += 1
            if not refused:
                await self._stage.wait_for_event(self.id, self._seq)

    async def end(self, error=None):
        """End the response, as the end of the block does; *error*: what the block raised."""
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
async def staged(environment):
    """Create a conversation in *environment* for the block."""
    made = Stage(environment)
    try:
        yield made
    finally:
        await made.close()


class Stage:
    """One conversation.

    Attributes:
        database: what the application itself has stored.
        truth: the published texts, by message id.
    """

    def __init__(self, environment):
        self.environment = environment
        self.server = environment.server
        self.history = environment.history
        self.id = f"h-{secrets.token_hex(5)}"
        self.channel = environment.history.settings.channel_of(self.id)
        self.path = f"/v1/conversations/{self.id}"
        self.database = []
        self.truth = {}
        self.created_s = time.monotonic()
        self._stack = AsyncExitStack()
        self._publisher = None

    async def close(self):
        self.server.faults.clear()
        self.environment.service.release(self.path)
        await self.another_connection()
        await self._stack.aclose()

    @property
    def _log(self):
        named = [c.log for c in self.server.hub.channels() if c.name == self.channel]
        return named[0] if named else ()

    def on_channel(self):
        """Return the server's messages of the channel, oldest first."""
        log = self._log
        return [log.find(serial) for serial in log._rows[log._start :]] if log else []

    async def wait_for_event(self, rid, seq):
        """Wait until the event *seq* of *rid* is on the channel."""
        async with asyncio.timeout(PATIENCE_S):
            while (rid, seq) not in self._events():  # noqa: ASYNC110 - published elsewhere
                await asyncio.sleep(HEARTBEAT_S)

    def _events(self):
        extras = [each.fields.get("extras") or {} for each in self.on_channel()]
        headers = [each.get("headers") or {} for each in extras]
        return {(each.get("responseId"), each.get("seq")) for each in headers}

    async def begin(self, rid, **more):
        """Begin a response with our library."""
        response = OwnResponse(self, rid, self.history.respond(self.id, rid, **more))
        await response.begin()
        self._stack.push_async_callback(response.end)
        return response

    async def respond(self, rid, *tokens, **more):
        """Publish a whole response with our library, and store it in the application's database."""
        response = await self.begin(rid, **more)
        await response.write(*tokens)
        await response.end()
        self.store(rid, "".join(tokens))

    async def publish(self, name, data=None, *, rid=None, id_=None, **headers):
        """Publish a message as a foreign program does, with stock ably-python; return its serial."""
        if self._publisher is None:
            where = f"127.0.0.1:{self.server.port}"
            self._publisher = AblyRealtime(key=self.server.key, endpoint=where, tls=False)
        named = {"responseId": rid, **headers}
        named = {key: value for key, value in named.items() if value is not None}
        extras = {"headers": named} if named else None
        message = Message(name=name, data=data, extras=extras, id=id_)
        return (await self._publisher.channels.get(self.channel).publish(message)).serials[0]

    async def another_connection(self):
        """Use another connection for later messages."""
        if self._publisher is not None:
            self._stack.push_async_callback(self._publisher.close)
        self._publisher = None

    async def publish_response(self, rid, *tokens, first=1, stop=False, **headers):
        """Publish a response as a foreign program with seqs does, as in the README."""
        if first == 1:
            await self.publish("start", rid=rid, seq=0, **headers)
        for seq, token in enumerate(tokens, first):
            await self.publish("token", token, rid=rid, seq=seq, **headers)
        if stop:
            await self.publish("stop", rid=rid, seq=first + len(tokens), **headers)

    async def appender(self):
        """Return a foreign publisher that appends."""
        return await self._stack.enter_async_context(appender_to(self.server, self.channel))

    async def holding_appender(self, window_ms):
        """Return a foreign publisher whose appends Ably holds back and delivers several at once."""
        ably = AblyRealtime(
            key=self.server.key,
            endpoint=f"127.0.0.1:{self.server.port}",
            tls=False,
            transport_params={"appendRollupWindow": str(window_ms)},
        )
        self._stack.push_async_callback(ably.close)
        return Appender(ably.channels.get(self.channel))

    async def hydrate(self, **parameters):
        """Return the service's answer to a reader."""
        target = self.target()
        headers = {"authorization": f"Bearer {target.token}"}
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            answer = await http.get(target.url, headers=headers, params=parameters)
        return answer.raise_for_status().json()

    def created_ms(self, rid):
        """Return the creation time of the first channel message of a response, in ms."""
        for message in self.on_channel():
            extras = message.fields.get("extras") or {}
            if (extras.get("headers") or {}).get("responseId") == rid:
                return message.timestamp_ms
        return 0

    def store(self, rid, text):
        """Store an ended response in the application's database."""
        self.database.append(Row(rid, text, self.created_ms(rid)))

    async def store_everywhere(self, rid, text):
        """Store an ended foreign response in the application's database and in the service."""
        self.store(rid, text)
        await self.history.store_messages(self.id, [NewMessage(rid, "assistant", text=text)])

    async def record(self):
        """Record the channel, as the service does after a webhook."""
        while not (await self.history.catch_up(self.id)).moved:
            pass  # the service's recorder was first, and may have read earlier

    def expire(self):
        """Expire the channel's history."""
        self.server.expire(self.channel)

    def fault(self, name, **parameters):
        return self.server.faults.on(name, channel=self.channel, **parameters)

    def recipe(self, kind):
        """Return a reader that uses the recipe *kind*; the test calls its steps."""
        made = kind(self.server, self.channel, self.database)
        self._stack.push_async_callback(made.close)
        return made

    def target(self):
        capability = {self.channel: ["subscribe", "history"]}
        return Target(
            f"{self.environment.url}{self.path}",
            self.channel,
            mint(capability, key=self.server.key),
            "127.0.0.1",
            self.server.port,
        )

    async def readers(self):
        """Start our readers; return once they have joined."""
        made = self._readers()
        await made.joined()
        return made

    async def waiting_readers(self):
        """Start our readers, whose first answers are held back until `answer` is called."""
        self.environment.service.hold(self.path)
        made = self._readers()
        async with asyncio.timeout(PATIENCE_S):
            while self.environment.service.held_count(self.path) < made.hydrating:  # noqa: ASYNC110 - as above
                await asyncio.sleep(HEARTBEAT_S)
        return made

    def answer(self):
        self.environment.service.release(self.path)

    def _readers(self):
        made = OurReaders(self.target(), self.truth, self.environment.node)
        self._stack.push_async_callback(made.close)
        made.join()
        return made

    async def process(self, rid, *tokens, keeps=True, ends=False):
        """Start a process that publishes *tokens* with our library; the test kills it."""
        job = {"conversation": self.id, "keeps": keeps, "ends": ends}
        return await self._process(rid, tokens, job)

    async def appending_process(self, rid, *tokens):
        """Start a process that appends *tokens* with stock ably-python; the test kills it."""
        server = {"key": self.server.key, "port": self.server.port}
        return await self._process(rid, tokens, {"channel": self.channel, "server": server})

    async def _process(self, rid, tokens, job):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holes.publisher"),
            json.dumps({"id": rid, "tokens": tokens, **job}),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
                **self.environment.variables,
            },
        )

        async def end():
            if process.returncode is None:
                process.kill()
            await process.wait()

        self._stack.push_async_callback(end)
        return process

    async def wait_until_stored(self, rid, text):
        """Wait until the store has *text* of a response."""
        async with asyncio.timeout(PATIENCE_S):
            while await self._stored_text(rid) != text:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(HEARTBEAT_S)

    async def _stored_text(self, rid):
        states = await self.history._store.states(self.id, {rid})
        return "".join(part["text"] for state in states for part in state.parts())

"""A TCP proxy whose connections a test can cut, allow again, and stall."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from urllib.parse import urlsplit, urlunsplit

from waiting import PATIENCE_S


class TcpProxy:
    """Forwards bytes between its own port and the server of *url*.

    Attributes:
        url: *url* with the host and port of the proxy.
        answers_lost: how many answers were lost by `lose_answer_to`.
    """

    def __init__(self, url):
        self._parts = urlsplit(url)
        self._far = self._parts
        self._server = None
        self._port = 0
        self._ends = set()
        self._doomed = set()
        self._cut_after = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.answers_lost = 0

    async def __aenter__(self):
        await self.connect()
        return self

    async def __aexit__(self, *_exc):
        await self.disconnect()

    @property
    def url(self):
        login = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{self._port}"))

    async def connect(self):
        """Accept connections (again), on the same port."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def disconnect(self):
        """Cut all connections; new ones are refused."""
        self._server.close()
        self._flowing.set()
        for end in list(self._ends):
            end.transport.abort()
        await asyncio.wait_for(self._server.wait_closed(), PATIENCE_S)

    def stall(self):
        """Forward nothing and close nothing until `resume`: neither side learns of it."""
        self._flowing.clear()

    def resume(self):
        self._flowing.set()

    def doom(self):
        """Cut each present connection when its client next sends something, unnoticed until then."""
        self._doomed |= self._ends
        return len(self._ends) // 2

    def leads_to(self, url):
        """New connections lead to the server of *url*."""
        self._far = urlsplit(url)

    def lose_answer_to(self, sent):
        """Pass on the next chunk that contains *sent*, and cut the connection at its answer."""
        self._cut_after = sent

    async def _join(self, reader, writer):
        there = None
        try:
            far_reader, there = await asyncio.open_connection(self._far.hostname, self._far.port)
            if not self._server.is_serving():  # cut while it was connecting
                return
            self._ends |= {writer, there}
            async with asyncio.TaskGroup() as both:
                cut = asyncio.Event()
                both.create_task(self._pass_on(reader, there, partial(self._see, cut)))
                both.create_task(self._pass_on(far_reader, writer, partial(self._lose, cut)))
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._ends.discard(end)
                    self._doomed.discard(end)

    def _see(self, cut, chunk):
        if self._cut_after is not None and self._cut_after in chunk:
            self._cut_after = None
            cut.set()
        return True

    def _lose(self, cut, _chunk):
        self.answers_lost += cut.is_set()
        return not cut.is_set()

    async def _pass_on(self, reader, writer, may_pass):
        with contextlib.suppress(ConnectionError):
            while (chunk := await reader.read(65_536)) and writer not in self._doomed:
                await self._flowing.wait()
                if not may_pass(chunk):
                    break
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()

"""A followed conversation as server-sent events: bytes made once, however many are told.

Where the server is known, whoever tells writes them to all readers that keep up; a stream's own task
begins and ends it, and sends to a reader that does not.

An ``id`` names the place behind an event, in this process and for as long as the conversation is
followed here without a break: who comes back with it is told what it missed. Otherwise, and for an
id that makes no sense, a snapshot comes first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from rehydrate.api.direct_answers import Unfinished, begun, direct
from rehydrate.errors import RehydrateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AsyncExitStack

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.subscriptions import Follower

_log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""A stream is never silent for longer, so that proxies and readers know it is alive."""

SEND_TIMEOUT_S = 60.0
"""A reader that takes nothing for so long is gone."""

_LOOK_S = 1.0
"""How often streams are looked after."""

_PIECE = 65_536
"""Bytes written at once: what waits in the server for one slow reader."""

_RETRY_MS = (1_000, 3_000)
"""When readers come back after the stream has ended: not all of them at once."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "Vary": "Authorization",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Streams:
    """The open streams of this process. They end when it begins to end, and do not hold it up.

    One task looks after all of them, so that no stream needs a timer of its own for every event.
    """

    def __init__(self) -> None:
        self._open: set[EventStream] = set()
        self._watching: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def holding(self, stream: EventStream) -> Iterator[None]:
        """Know of *stream* while the block runs."""
        self._open.add(stream)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="watching streams")
        try:
            yield
        finally:
            self._open.discard(stream)
            if not self._open:
                self._watching.cancel()
                self._watching = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_LOOK_S, HEARTBEAT_S))
            for stream in list(self._open):
                stream.look()

    def end(self) -> None:
        """End all streams, cleanly; their readers come back, to another process."""
        for stream in list(self._open):
            stream.end()

    @contextmanager
    def ending_with_the_process(self) -> Iterator[None]:
        """End them as soon as the process is told to end.

        Servers wait for open answers before they tell an app, so the signal is listened to as well;
        whoever handled it before still does.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def heard(number: int, frame: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.end)
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            elif handler is signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in _SIGNALS:
            signal.signal(number, heard)
        try:
            yield
        finally:
            for number in _SIGNALS:
                if signal.getsignal(number) is heard:
                    signal.signal(number, before[number])


def last_event_id(request: Request) -> str | None:
    """What the reader received last: a header of EventSource, or a parameter where it cannot."""
    given = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    return given or None


class EventStream(Response):
    """The answer that goes on: what *follower* is told, until it or its proof ends.

    Args:
        follower: whose events are sent.
        stack: closed when the stream has ended.
        streams: those of this process.
        expires_s: when the reader's proof ends, in seconds since 1970; None: it does not.
        clock: seconds since 1970.
    """

    media_type = "text/event-stream"
    own_headers: Mapping[str, str] = {}
    """Of a kind of stream, beside those of all."""

    first = b""
    """What is sent before what the follower is told from now on."""

    def __init__(
        self,
        follower: Follower,
        stack: AsyncExitStack,
        streams: Streams,
        *,
        expires_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.status_code = 200
        self.body = b""
        self.background = None
        self.init_headers({**_HEADERS, **self.own_headers})
        del self.headers["content-length"]
        self._follower = follower
        self._stack = stack
        self._streams = streams
        self._expires_s = math.inf if expires_s is None else expires_s
        self._clock = clock
        self._writing: asyncio.Task[None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._unfinished: Unfinished | None = None
        self._direct: Send | None = None
        self._written_s = 0.0
        self._sending = self._silent = self._given_up = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, until there is nothing more to send, or the reader is gone."""
        self._direct = direct(scope)
        async with self._stack:
            self._writing = asyncio.current_task()
            leaving = asyncio.create_task(self._leave(receive), name="watching a reader")
            try:
                with self._streams.holding(self):
                    await self._write(send)
            except asyncio.CancelledError:
                if not self._given_up or self._writing is None:
                    raise
                self._writing.uncancel()
            finally:
                leaving.cancel()
                self._follower.listen(None)
                if self._unfinished is not None:
                    self._unfinished.close()

    def end(self) -> None:
        """Send nothing more."""
        self._follower.close()

    def look(self) -> None:
        """End what is over, and show the reader that a silent stream is alive."""
        idle_s = time.monotonic() - self._written_s
        if self._sending:
            if idle_s > SEND_TIMEOUT_S and self._writing is not None and not self._given_up:
                _log.info("a reader of a stream took nothing for %g s", SEND_TIMEOUT_S)
                self._given_up = True
                self._writing.cancel()
        elif self._clock() >= self._expires_s:
            self.end()
        elif idle_s >= HEARTBEAT_S:
            self._silent = True
            self._follower.nudge()

    def encoded(self, told: list[FollowEvent]) -> bytes:
        """The bytes that tell *told*."""
        return frame(told[0]) if len(told) == 1 else _frames(told)

    async def _leave(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._follower.close()

    async def _write(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        retry = b"retry: %d\n\n" % random.randint(*_RETRY_MS)  # noqa: S311 - spreads load
        await self._send(send, retry + self.first)
        self._follower.listen(self._look_up)
        try:
            while not self._follower.ended:
                told = self._follower.poll()
                if told:
                    if chunk := self.encoded(told):
                        await self._send(send, chunk)
                elif self._silent:
                    await self._send(send, b":\n\n")
                else:
                    await self._rest()
        except RehydrateError as error:
            _log.warning("a stream ends: %s", type(error).__name__)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _rest(self) -> None:
        """Leave what is told to `_look_up`, until that needs this task."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            await unfinished

    def _look_up(self) -> None:
        """Something may have been told: send it at once, or wake the task that does."""
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        if self._direct is None or self._silent or self._follower.ended:
            waiting.set_result(None)
            return
        try:
            told = self._follower.poll()
            chunk = self.encoded(told) if told else b""
            self._unfinished = begun(self._send(self._direct, chunk)) if chunk else None
        except Exception as error:  # noqa: BLE001 - for the task, as if it had met it itself
            if not waiting.done():
                waiting.set_exception(error)
        if self._unfinished is not None and not waiting.done():
            waiting.set_result(None)

    async def _send(self, send: Send, chunk: bytes) -> None:
        self._sending, self._silent = True, False
        self._written_s = time.monotonic()
        if len(chunk) <= _PIECE:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            for at in range(0, len(chunk), _PIECE):
                piece = chunk[at : at + _PIECE]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._written_s = time.monotonic()
        self._sending = False


def frame(told: FollowEvent) -> bytes:
    """The bytes of one event; the same ones for everybody."""
    if told.frame is None:
        kind, id_ = told.kind.encode(), told.id.encode()
        told.frame = b"event: %b\nid: %b\ndata: %b\n\n" % (kind, id_, told.body)
    return told.frame


def _frames(told: list[FollowEvent]) -> bytes:
    return b"".join([frame(each) for each in told])

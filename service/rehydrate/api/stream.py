"""A followed conversation as server-sent events: bytes made once, however many are told.

An ``id`` names the place behind an event, in this process and for as long as the conversation is
followed here without a break: who comes back with it is told what it missed. Otherwise, and for an
id that makes no sense, a snapshot comes first.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from rehydrate.errors import RehydrateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AsyncExitStack

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from rehydrate.following import Follower
    from rehydrate.told import FollowEvent

_log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""A stream is never silent for longer, so that proxies and readers know it is alive."""

SEND_TIMEOUT_S = 60.0
"""A reader that takes nothing for so long is gone."""

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
    """The open streams of this process. They end when it begins to end, and do not hold it up."""

    def __init__(self) -> None:
        self._open: set[Follower] = set()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def holding(self, follower: Follower) -> Iterator[None]:
        """Know of *follower* while the block runs."""
        self._open.add(follower)
        try:
            yield
        finally:
            self._open.discard(follower)

    def end(self) -> None:
        """End all streams, cleanly; their readers come back, to another process."""
        for follower in list(self._open):
            follower.close()

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
        expires_s: when the reader's proof ends, in seconds since 1970; None: it does not.
        clock: seconds since 1970.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        follower: Follower,
        stack: AsyncExitStack,
        *,
        expires_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.status_code = 200
        self.body = b""
        self.background = None
        self.init_headers(_HEADERS)
        del self.headers["content-length"]
        self._follower = follower
        self._stack = stack
        self._expires_s = expires_s
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's own signature
        """Send, until there is nothing more to send."""
        watching = asyncio.create_task(self._watch(receive), name="watching a reader")
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send(send, b"retry: %d\n\n" % random.randint(*_RETRY_MS))  # noqa: S311 - spreads load
            await self._send_all(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            _log.info("a reader of a stream took nothing for %g s", SEND_TIMEOUT_S)
        finally:
            watching.cancel()
            await self._stack.aclose()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._follower.close()

    async def _send_all(self, send: Send) -> None:
        while not self._follower.ended:
            wait_s = HEARTBEAT_S
            if self._expires_s is not None:
                wait_s = min(wait_s, self._expires_s - self._clock())
                if wait_s <= 0:
                    return
            try:
                told = await self._follower.batch(wait_s)
            except RehydrateError as error:
                _log.warning("a stream ends: %s", type(error).__name__)
                return
            if told:
                await self._send(send, frame(told[0]) if len(told) == 1 else _frames(told))
            elif wait_s == HEARTBEAT_S and not self._follower.ended:
                await self._send(send, b":\n\n")

    async def _send(self, send: Send, chunk: bytes) -> None:
        for at in range(0, len(chunk), _PIECE):
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(
                    {
                        "type": "http.response.body",
                        "body": chunk[at : at + _PIECE],
                        "more_body": True,
                    }
                )


def frame(told: FollowEvent) -> bytes:
    """The bytes of one event; the same ones for everybody."""
    if told.frame is None:
        kind, id_ = told.kind.encode(), told.id.encode()
        told.frame = b"event: %b\nid: %b\ndata: %b\n\n" % (kind, id_, told.body)
    return told.frame


def _frames(told: list[FollowEvent]) -> bytes:
    return b"".join([frame(each) for each in told])

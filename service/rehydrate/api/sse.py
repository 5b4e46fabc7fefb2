"""Server-sent events of a followed conversation. Each event is encoded once for all readers.

Under uvicorn the feed writes new events directly to all streams whose clients keep up (see
`answers`). A stream's own task opens and closes it, and writes to a client that is slow.

The ``id`` of an event is a position in the event buffer of this process, valid while the
conversation is followed here without a break. A reader that reconnects with such an id receives
the events that it missed; with any other id, or without one, a snapshot first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import threading
import time
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from starlette.responses import Response

from rehydrate.api.answers import (
    PIECE_BYTES,
    SEND_TIMEOUT_S,
    Unfinished,
    cut,
    direct,
    server_connections,
    step,
)
from rehydrate.background import TaskPool, jittered, log_failure
from rehydrate.core.json import dump
from rehydrate.errors import Refused, RehydrateError, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.subscriptions import Follower
    from rehydrate.limits import AnswerBytes, Claim

_log = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
"""A comment is sent after this time without an event, so that proxies keep the connection open."""

VERIFY_S = 60.0
"""Interval at which the credentials of an open stream are verified again, if only Ably can do that."""

_VERIFIED_AT_ONCE = 16

MAX_AGE_S, _AGE_SPREAD = 3600.0, 0.1
"""A reader's stream ends after about an hour: a new request verifies everything anew."""

_CHECK_INTERVAL_S = 1.0
"""Interval of the checks for heartbeats, expired credentials and send timeouts."""

_FRAMES_AT_ONCE = 256
"""How many small events are written together."""

_RETRY_MS, _RETRY_SPREAD = 2_000, 0.5
"""The clients' reconnect delay, varied at random, so that they do not reconnect all at once."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",  # or a compressing proxy holds the events back
    "Vary": "Authorization",
    "X-Content-Type-Options": "nosniff",
    "X-Accel-Buffering": "no",  # or nginx buffers the events
}
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Streams:
    """The open streams of this process; they end when its shutdown starts, so as not to delay it.

    One task checks all streams, so that no stream needs a timer per event.

    Args:
        sizes: counts the bytes that are in memory because a client has not accepted them.
    """

    def __init__(self, sizes: AnswerBytes) -> None:
        self._sizes = sizes
        self._claims: dict[int, tuple[Claim, set[EventStream]]] = {}
        self._open: set[EventStream] = set()
        self._verifying = TaskPool()
        self._watching: asyncio.Task[None] | None = None
        self._connections: set[Any] | None = None

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def holding(self, stream: EventStream) -> Iterator[None]:
        """Register *stream* while the block runs."""
        self._open.add(stream)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="stream checks")
        try:
            yield
        finally:
            self._open.discard(stream)
            if not self._open:
                self._watching.cancel()
                self._watching = None

    @contextmanager
    def claiming(self, shared: object, size: int, stream: EventStream) -> Iterator[None]:
        """Count *size* bytes while the block runs: once, for all streams that send *shared*.

        Raises:
            TooMany: too many bytes are in memory.
        """
        claim, senders = self._claims.get(id(shared)) or (self._sizes.claim(stream.owner), set())
        claim.hold(size)
        self._claims[id(shared)] = claim, senders
        senders.add(stream)
        try:
            yield
        finally:
            senders.discard(stream)
            if not senders:
                claim.release()
                del self._claims[id(shared)]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(_CHECK_INTERVAL_S, HEARTBEAT_S))
            for stream in list(self._open):
                stream.check()
                if len(self._verifying) < _VERIFIED_AT_ONCE and stream.is_unverified:
                    self._verifying.start(stream.verify(), name="stream verification")

    def end(self) -> None:
        """End all streams cleanly; their clients reconnect, to another process."""
        for stream in list(self._open):
            stream.end()

    async def close(self) -> None:
        """End all streams, and their tasks."""
        self.end()
        await self._verifying.close()

    def end_with_server(self, receive: Receive) -> None:
        """End all streams when the server of a request shuts down, if that is uvicorn.

        It does so without a signal, too: after a number of requests, or if its program wants it
        to. It waits for open responses first, and calls `shutdown` of its connections before; so
        this is one of them (and counts as one in ``limit_concurrency``).
        """
        connections = server_connections(receive)
        if connections is not None and connections is not self._connections:
            self._connections = connections
            connections.add(self)

    def shutdown(self) -> None:
        """End all streams; called by uvicorn, which waits until it has no more connections."""
        if self._connections is not None:
            self._connections.discard(self)
        self.end()

    @contextmanager
    def ending_with_the_process(self) -> Iterator[None]:
        """End all streams as soon as the process receives SIGTERM or SIGINT.

        Servers wait for open responses before they shut the lifespan down, so streams must react to
        the signal itself. The previous handler is called afterwards.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def on_signal(number: int, frame: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.end)
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            elif handler is signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in _SIGNALS:
            signal.signal(number, on_signal)
        try:
            yield
        finally:
            for number in _SIGNALS:
                if signal.getsignal(number) is on_signal:
                    signal.signal(number, before[number])


def last_event_id(request: Request) -> str | None:
    """Return the id of the last event that the client received: a header or a query parameter."""
    given = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    return given or None


class EventStream(Response):
    """A streaming response of a follower's events, until the follower ends or credentials expire.

    Args:
        follower: the source of the events.
        streams: registry of the open streams of this process.
        expires_s: when the reader's token expires, in seconds since 1970; None: never.
        owner: the owner whose share of the bytes in memory the stream uses.
        verify: verifies the reader's credentials again, and raises `Refused` if they are no longer
            valid; None: only `expires_s` ends them.
        clock: seconds since 1970.
    """

    media_type = "text/event-stream"
    own_headers: Mapping[str, str] = {}
    """Headers of a subclass, in addition to the common ones."""

    first = b""
    """Bytes that are sent before the follower's next events."""

    def __init__(
        self,
        follower: Follower,
        streams: Streams,
        *,
        expires_s: float | None = None,
        owner: str | None = None,
        verify: Callable[[], Awaitable[object]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.status_code = 200
        self.body = b""
        self.background = None
        self.init_headers({**_HEADERS, **self.own_headers})
        del self.headers["content-length"]
        self._follower = follower
        self._stack = AsyncExitStack()
        self._streams = streams
        self.owner = owner
        self._expires_s = math.inf if expires_s is None else expires_s
        self._ends_s = math.inf
        if expires_s is not None or owner is not None:
            self._ends_s = clock() + jittered(MAX_AGE_S, _AGE_SPREAD)
        self._verify = verify
        self._verify_at_s = clock() + VERIFY_S
        self._end_event = b""
        self._clock = clock
        self._writing: asyncio.Task[None] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._unfinished: Unfinished | None = None
        self._direct: Send | None = None
        self._written_s = 0.0
        self._sending = self._silent = self._timed_out = self._expired = self._is_cut = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the follower ends or the client disconnects."""
        self._direct = direct(scope)
        async with self._stack:
            self._writing = asyncio.current_task()
            leaving = asyncio.create_task(self._await_disconnect(receive), name="stream disconnect")
            try:
                with self._streams.holding(self):
                    await self._write(send)
            except asyncio.CancelledError:
                if not self._timed_out or self._writing is None:
                    raise
                self._writing.uncancel()
                await cut(scope)
            finally:
                leaving.cancel()
                self._follower.listen(None)
                if self._unfinished is not None:
                    self._unfinished.close()

    def adopt(self, stack: AsyncExitStack) -> Self:
        """Take over the contexts that were entered into *stack*: they are left when the stream ends."""
        self._stack = stack.pop_all()
        return self

    def end(self) -> None:
        """End the stream cleanly."""
        self._follower.close()

    def check(self) -> None:
        """End a stream whose credentials expired, abort a stalled one, or cause a heartbeat.

        Expiry is a hard time limit: a stream that is still sending one check later, because its
        client reads slowly, is aborted.
        """
        idle_s = time.monotonic() - self._written_s
        now_s = self._clock()
        if now_s >= self._expires_s and not self._expired:
            self._expire(Unauthorized.code, "the token has expired")
        elif now_s >= self._ends_s and not self._expired:
            self._expire("max_age", "the stream has reached its maximum age: connect again")
        elif self._sending:
            stalled = idle_s > SEND_TIMEOUT_S
            if (stalled or self._expired) and self._writing is not None and not self._timed_out:
                why = (
                    f"read nothing for {SEND_TIMEOUT_S:g} s" if stalled else "is no longer allowed"
                )
                _log.info("aborting a stream: its client %s", why)
                self._timed_out = True
                self._writing.cancel()
        elif idle_s >= HEARTBEAT_S:
            self._silent = True
            self._follower.nudge()

    @property
    def is_unverified(self) -> bool:
        """True if it is time to verify the credentials again."""
        return self._verify is not None and self._clock() >= self._verify_at_s

    async def verify(self) -> None:
        """Verify the credentials again, and end the stream if they are refused."""
        if self._verify is None:
            return
        self._verify_at_s = math.inf
        try:
            await self._verify()
        except Refused as error:
            self._expire(error.code, str(error))
        except Exception as error:  # noqa: BLE001 - the result is unknown, and the check is repeated
            log_failure(_log, "the credentials of a stream could not be verified", error)
        self._verify_at_s = self._clock() + jittered(VERIFY_S)

    def _expire(self, code: str, detail: str) -> None:
        self._expired = True
        self._end_event = self.end_event(code, detail)
        self.end()

    def end_event(self, code: str, detail: str) -> bytes:
        """Return the bytes that tell a client why its stream ends."""
        return b"event: end\ndata: %b\n\n" % dump({"code": code, "detail": detail})

    def chunks(self, events: list[FollowEvent]) -> Iterator[tuple[bytes, object]]:
        """Yield the bytes of *events* in order, with the object that other streams share."""
        small: list[bytes] = []
        for event in events:
            if len(event.body) > PIECE_BYTES:  # not copied
                yield b"".join([*small, _head(event)]), None
                yield event.body, event
                small = [_TAIL]
            else:
                small.append(frame(event))
                if len(small) >= _FRAMES_AT_ONCE:
                    yield b"".join(small), None
                    small = []
        if small:
            yield small[0] if len(small) == 1 else b"".join(small), None

    async def _await_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._follower.close()

    async def _write(self, send: Send) -> None:
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        retry = b"retry: %d\n\n" % jittered(_RETRY_MS, _RETRY_SPREAD)
        self._follower.listen(self._on_event)
        try:
            with self._streams.claiming(self, len(self.first), self):
                await self._send(send, retry + self.first)
            while not self._follower.ended:
                events = self._follower.poll()
                if events:
                    await self._send_events(send, events)
                elif self._silent:
                    await self._send(send, b":\n\n")
                else:
                    await self._idle()
        except RehydrateError as error:
            _log.warning("a stream ended with an error: %s", type(error).__name__)
        last = b"" if self._is_cut else self._end_event
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _idle(self) -> None:
        """Let `_on_event` write the events, until it needs this task."""
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            await unfinished

    def _on_event(self) -> None:
        """Send new events directly if possible, otherwise wake the stream's own task.

        Called by the feed, in its task, whenever the follower may have new events.
        """
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        if self._direct is None or self._silent or self._follower.ended:
            waiting.set_result(None)
            return
        try:
            events = self._follower.poll()
            self._unfinished = step(self._send_events(self._direct, events)) if events else None
        except Exception as error:  # noqa: BLE001 - re-raised in the stream's own task
            if not waiting.done():
                waiting.set_exception(error)
        if self._unfinished is not None and not waiting.done():
            waiting.set_result(None)

    async def _send_events(self, send: Send, events: list[FollowEvent]) -> None:
        for chunk, shared in self.chunks(events):
            if len(chunk) <= PIECE_BYTES:
                await self._send(send, chunk)
                continue
            with self._streams.claiming(shared or self, len(chunk), self):
                await self._send(send, chunk)

    async def _send(self, send: Send, chunk: bytes) -> None:
        if self._is_cut:
            return
        self._sending, self._silent = True, False
        self._written_s = time.monotonic()
        if len(chunk) <= PIECE_BYTES:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        else:
            for at in range(0, len(chunk), PIECE_BYTES):
                if self._expired:
                    self._is_cut = True  # clients drop an event that is cut off by the end
                    break
                piece = chunk[at : at + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                self._written_s = time.monotonic()
        self._sending = False


def frame(event: FollowEvent) -> bytes:
    """Return the bytes of one event, which all streams share."""
    if event.frame is None:
        event.frame = b"%b%b%b" % (_head(event), event.body, _TAIL)
    return event.frame


def _head(event: FollowEvent) -> bytes:
    return b"event: %b\nid: %b\ndata: " % (event.kind.encode(), event.id.encode())


_TAIL = b"\n\n"

"""Join a conversation with stock ably-python: an answer of the service, then live messages.

A reader needs an overlap between the answer and the messages that Ably delivers; the drop rule
removes the repeats (docs/protocol.md sections 9 and 10). Only a new attach with the parameter
``rewind`` gives an overlap: Ably does not rewind an existing attachment. So a join never uses an
attachment that other code began; it detaches first. Messages delivered since the attach are buffered
until the answer arrives. Then the drop rule decides message by message. Either the view is whole, or
something is missing and the join starts again after a pause.

This module imports neither the SDK nor any module of the server, so that a client needs only this
package without the server's dependencies, and the SDK.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

from rehydrate.core.client_view import View, received

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from ably.realtime.channel import RealtimeChannel
    from ably.types.channelstate import ChannelStateChange

_log = logging.getLogger(__name__)

Way = Literal[1, 2, 3]
"""1: attach, then load. 2: attach, then load until the attach point. 3: load, then attach."""

Status = Literal["connecting", "live", "recovering", "failed", "closed"]

REWIND = "10s"
MAX_WAITING = 10_000
"""How many messages may wait for an answer; with more, the join starts again."""

MAX_TRIES = 10
"""How often a join that never succeeded, or an attach, is tried before its error is raised."""

_ATTACH_S = 15.0
_LOAD_S = 30.0
_DETACH_S = 5.0
_BACKLOG_S = 0.25
_WENT_WELL_S = 5.0
_MAX_PAUSE_S = 5.0
_REFUSED = frozenset({401, 403, 404})


class LoadAnswer(Protocol):
    """Fetches ``GET /v1/conversations/{id}``, with ``until`` if it is given, and parses it."""

    def __call__(self, *, until: str | None = None) -> Awaitable[Mapping[str, Any]]:
        """Return the answer. An error is retried, unless its HTTP status is 401, 403 or 404."""


class JoinedView(NamedTuple):
    """A conversation as a reader shows it at one moment. Later events do not change the view.

    Attributes:
        messages: in their wire form, oldest first. One that did not change is the same object as in
            the view before. Do not change them.
        reasons: why the answer may lack something; empty if it does not.
        is_live: nothing is known to be missing; otherwise a newer view follows.
    """

    messages: tuple[Mapping[str, Any], ...]
    reasons: tuple[Mapping[str, Any], ...]
    is_live: bool

    @property
    def open(self) -> tuple[str, ...]:
        """The ids of the messages that are in progress."""
        return tuple(each["id"] for each in self.messages if each["status"] == "in_progress")


def join(channel: RealtimeChannel, load: LoadAnswer, *, way: Way = 1) -> Joined:
    """Join the conversation on *channel*: an asynchronous context manager, and iterator of views.

    ``async with join(channel, load) as conversation: async for view in conversation: …``

    While a consumer is busy, views are skipped: the next one is the newest. The channel's options
    and its other listeners are kept; these listeners receive the rewound messages again (at most
    10 s). At the end the channel is detached, unless it was attached or attaching before.

    Args:
        channel: a channel of stock ably-python.
        load: fetches the answer of the service.
        way: the order of attach and load in the first attempt (see `Way`); later attempts use 1.

    Raises:
        Exception: from the iteration, the error of *load* or of the SDK, if its status is 401, 403
            or 404; if none of the first `MAX_TRIES` attempts succeeded; or if as many attaches in a
            row failed although the client is connected: then the SDK may need a new client.
    """
    return Joined(channel, load, way)


class Joined:
    """A joined conversation: see `join`.

    Attributes:
        status: ``connecting`` until the first whole view, ``live``, ``recovering`` until the view is
            whole again, ``failed`` after an error that the iteration raises, ``closed``.
        error: why the last attempt failed; None if it did not.
    """

    def __init__(self, channel: RealtimeChannel, load: LoadAnswer, way: Way) -> None:
        self.status: Status = "connecting"
        self.error: Exception | None = None
        self._attachment = _Attachment(channel, self._receive, self._restart)
        self._load = load
        self._way = way
        self._view: View | None = None
        self._shown: View | None = None
        self._reasons: tuple[Mapping[str, Any], ...] = ()
        self._waiting: deque[Any] = deque()
        self._changed, self._missing = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._changed.set())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            task.cancelled() or task.exception()  # the iteration has raised it, if there was one
        self.status = "closed"
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JoinedView:
        while not self._changed.is_set() or self._shown is None:
            if self._is_over():
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._changed.clear()
        if self._is_over():
            raise StopAsyncIteration
        return self._current(self._shown)

    def _is_over(self) -> bool:
        """Return True if the join was left; raise the error that ended it."""
        if self._task is None:
            return True
        if self._task.done():
            self._changed.set()  # so that another iteration ends too
            self._task.result()
        return self._task.done()

    @property
    def view(self) -> JoinedView | None:
        """The conversation as it is known now; None before the first answer."""
        return None if self._shown is None else self._current(self._shown)

    def _current(self, shown: View) -> JoinedView:
        return JoinedView(tuple(shown.messages), self._reasons, shown is self._view)

    # -- attempts ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Make attempts until cancelled; raise an error that another attempt cannot fix."""
        loop, tries, way = asyncio.get_running_loop(), 0, self._way
        try:
            while True:
                await asyncio.sleep(_pause_s(tries))
                tries += 1
                if await self._attempted(way, tries):
                    since = loop.time()
                    await self._missing.wait()
                    if loop.time() - since > _WENT_WELL_S:
                        tries = 0
                self._view, way = None, 1
                if self.status == "live":
                    self.status = "recovering"
        finally:
            self._view = None
            await self._attachment.close()

    async def _attempted(self, way: Way, tries: int) -> bool:
        try:
            whole = await self._attempt(way)
        except Exception as error:
            self.error = error
            hopeless = self.status == "connecting" and tries >= MAX_TRIES
            if hopeless or _is_refusal(error) or self._attachment.is_stuck:
                self.status = "failed"
                raise
            _log.warning("a conversation could not be joined, will retry: %r", type(error))
            return False
        self.error = None
        return whole

    async def _attempt(self, way: Way) -> bool:
        """Attach and load, in either order; return True if the view is whole."""
        self._view = None
        self._missing.clear()
        if not self._attachment.is_fresh:
            self._waiting.clear()
        answer = await self._loaded() if way == 3 else None  # noqa: PLR2004 - the third way
        rewind = answer and answer.get("rewind_from")
        serial = await self._attachment.begin(rewind or REWIND)
        if answer is None or rewind is None:
            answer = await self._loaded(serial if way == 2 else None)  # noqa: PLR2004 - the second
        else:
            await asyncio.sleep(_BACKLOG_S)  # Ably delivers the backlog at once
            if not self._overlaps(answer):
                return False
        view = View(answer)
        whole = self._attachment.is_fresh and not view.stale and not self._missing.is_set()
        while whole and self._waiting:
            whole = view.apply(self._waiting.popleft())
        self._shown, self._reasons = view, tuple(answer["reasons"])
        if whole:
            self._view, self.status = view, "live"
        else:
            self._attachment.discard()
        self._changed.set()
        return whole

    async def _loaded(self, until: str | None = None) -> Mapping[str, Any]:
        async with asyncio.timeout(_LOAD_S):
            return await self._load(until=until)

    def _overlaps(self, answer: Mapping[str, Any]) -> bool:
        """Return True if the rewind begins with a message that *answer* has."""
        first = received(self._waiting[0]).version_serial if self._waiting else None
        until = answer["until"]
        return first is not None and until is not None and first <= until

    # -- callbacks of the attachment; they do not block -----------------------------------------------

    def _receive(self, message: Any) -> None:
        if self._view is None:
            self._waiting.append(message)
            if len(self._waiting) > MAX_WAITING:
                self._attachment.discard()
                self._restart()
        elif self._view.apply(message):
            self._changed.set()
        else:
            self._attachment.discard()
            self._restart()

    def _restart(self) -> None:
        """Begin again: something is missing, or may be."""
        self._view = None
        self._waiting.clear()
        self._missing.set()
        self._changed.set()


def _pause_s(tries: int) -> float:
    """Return how long to wait after *tries* attempts, with jitter: many readers fail at once."""
    return tries and min(_MAX_PAUSE_S, 0.1 * 2 ** min(tries, 6)) * random.uniform(0.5, 1.5)  # noqa: S311 - not a secret


def _is_refusal(error: Exception) -> bool:
    """Return True if *error*, of the SDK or an HTTP client, has a status that retries cannot change."""
    answer = getattr(error, "response", None)
    names = ((error, "status_code"), (error, "status"), (answer, "status_code"), (answer, "status"))
    return any(getattr(each, name, None) in _REFUSED for each, name in names)


class _Attachment:
    """The attachment of a channel that a join began: it rewinds, so it overlaps with an answer.

    An attachment is *fresh* as long as everything since its beginning was delivered. An attachment
    that other code begins after a detach is fresh too: the channel's options make it rewind.

    Args:
        channel: the channel.
        receive: called with each message of a fresh attachment.
        restart: called if the attachment was lost, or replaced by a fresh one.

    Attributes:
        is_fresh: everything since the beginning of the attachment was delivered.
    """

    def __init__(
        self,
        channel: RealtimeChannel,
        receive: Callable[[Any], object],
        restart: Callable[[], object],
    ) -> None:
        self._channel = channel
        self._receive, self._restart = receive, restart
        self._options = dict(channel.options or {})
        self._was_attached = channel.state in ("attached", "attaching")
        self.is_fresh = self._is_detached = self._is_ours = False
        self._is_listening = self._is_subscribed = False
        self._failures = 0
        self._attaching: asyncio.Task[None] | None = None

    async def begin(self, rewind: str) -> str | None:
        """Attach, unless there is a fresh attachment; return the attach point, if it is known.

        Raises:
            Exception: the SDK's error, or TimeoutError.
        """
        if not self.is_fresh:
            self._is_ours, self._failures = True, self._failures + 1
            try:
                await self._attach(rewind)
            finally:
                self._is_ours = False
            self._failures = 0
        return getattr(self._channel, "_RealtimeChannel__attach_serial", None)

    @property
    def is_stuck(self) -> bool:
        """True if too many attaches in a row have failed although the client is connected."""
        connected = self._channel.ably.connection.state == "connected"
        return connected and self._failures >= MAX_TRIES

    def discard(self) -> None:
        """Make the next `begin` attach again."""
        self.is_fresh = False

    async def close(self) -> None:
        """Remove the listeners, detach if the channel was not attached before, restore its options."""
        self._is_ours, self.is_fresh = True, False
        channel = self._channel
        if self._is_subscribed:
            channel.unsubscribe(self._on_message)
            channel.unsubscribe("error", self._ignore)
        if self._is_listening:
            channel.off(self._on_state)
            try:
                if not self._was_attached:
                    await self._detach()
            finally:
                channel.set_options_without_reattach(_options(self._options))
        if self._attaching is not None:
            self._attaching.cancel()

    async def _attach(self, rewind: str) -> None:
        channel = self._channel
        if not self._is_listening:
            self._is_listening = True
            channel.on(self._on_state)
            self._is_detached = channel.state in ("initialized", "detached", "failed")
        await self._detach()
        if channel.state not in ("initialized", "detached", "failed", "suspended"):
            raise TimeoutError(f"the channel cannot be detached: it is {channel.state.value}")
        params = {**self._options.get("params", {}), "rewind": rewind}
        await channel.set_options(_options(self._options | {"params": params}))
        self._attaching = asyncio.create_task(self._subscribe())
        await asyncio.wait({self._attaching}, timeout=_ATTACH_S)
        if not self._attaching.done():
            raise TimeoutError("the channel cannot be attached")
        self._attaching.result()
        if channel.state != "attached":
            raise ConnectionError(f"the channel was not attached: it is {channel.state.value}")

    async def _subscribe(self) -> None:
        """Attach. The listeners are added first, since the backlog arrives at once."""
        if self._is_subscribed:
            await self._channel.attach()
            return
        self._is_subscribed = True
        await asyncio.gather(
            self._channel.subscribe(self._on_message),
            self._channel.subscribe("error", self._ignore),  # else the SDK raises on such a message
        )

    async def _detach(self) -> None:
        """Detach, as far as the connection permits within some seconds."""
        if self._channel.state in ("initialized", "detached", "failed"):
            return
        detaching = asyncio.create_task(self._channel.detach())
        try:
            await asyncio.wait({detaching}, timeout=_DETACH_S)
        finally:
            if not detaching.cancel() and detaching.exception() is not None:
                _log.debug("a channel was not detached: %r", detaching.exception())

    def _on_message(self, message: Any) -> None:
        if self.is_fresh:
            self._receive(message)

    def _ignore(self, message: Any) -> None:
        pass

    def _on_state(self, change: ChannelStateChange) -> None:
        if change.current == "attached":
            began, self._is_detached = self._is_detached, False
            if not began and change.resumed:
                return  # the connection was lost, but no message of the channel
            self.is_fresh = began
            if not self._is_ours:
                self._restart()
        elif change.current in ("detached", "failed", "suspended"):
            self._is_detached = change.current != "suspended"
            was_fresh, self.is_fresh = self.is_fresh, False
            if was_fresh and not self._is_ours:
                self._restart()


def _options(options: Mapping[str, Any]) -> Any:
    from ably.types.channeloptions import ChannelOptions  # noqa: PLC0415 - only a join needs the SDK

    return ChannelOptions.from_dict(dict(options))

"""Play a replay: each channel message when it is due, until all are acknowledged.

Nothing is awaited per message. Where one was refused and a later one was not, followers have seen a
hole; then the stream begins again in the next gen, with a repair that says what was said so far.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from rehydrate.core.codecs import decode_all
from rehydrate.core.event import Event
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.rate_limit import RateLimit
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rehydrate.core.replay.requests import Replay
    from rehydrate.core.replay.schedule import Schedule
    from rehydrate.ports import ChannelLog

WINDOW = 64
"""Channel messages of a replay that may wait for their acknowledgements."""

TRIES = 5
TRY_AGAIN_S = 0.25
ACK_TIMEOUT_S = 30.0
LOOK_TIMEOUT_S = 10.0

RATE_CODES = range(42900, 43000)
"""Ably's refusals that pass."""


class Outlet(Protocol):
    """Where to publish, one message at a time, each in its turn."""

    def post(self, event: Event) -> Awaitable[Sequence[str | None]]:
        """Send *event* in a publish of its own; returns at once.

        Raises:
            ChannelUnavailable: (from the awaitable) it was not acknowledged, or refused.
        """
        ...


class Player:
    """Plays one replay, from where it is.

    Args:
        replay: which, as it stands.
        schedule: all of it.
        outlet: where it is published.
        client_id: as whom.
        keep: notes how far it is, and in which gen.

    Attributes:
        acknowledged: up to which step all is acknowledged; -1 for none.
        gen: of the stream.
        gen_from: up to which step its text began by a repair.
    """

    def __init__(
        self,
        replay: Replay,
        schedule: Schedule,
        outlet: Outlet,
        client_id: str | None,
        keep: Callable[[], Awaitable[object]],
    ) -> None:
        self._id = replay.id
        self._steps = schedule.steps
        self._schedule = schedule
        self._outlet = outlet
        self._client_id = client_id
        self._keep = keep
        self._pace = RateLimit(replay.terms.max_rate)
        self.acknowledged = replay.done or -1
        self.gen = replay.gen
        self.gen_from = replay.gen_from
        self._unshown = replay.gen > 1 or self.acknowledged < 0
        self._sent: deque[tuple[int, asyncio.Future[Sequence[str | None]]]] = deque()
        self._news = asyncio.Event()
        self._cancelled = replay.cancel_asked
        self._failed: ChannelUnavailable | None = None

    @property
    def done(self) -> int:
        """How many channel messages with content are acknowledged."""
        return min(max(self.acknowledged, 0), self._schedule.chunks)

    @property
    def seconds_done(self) -> float:
        """How much of the replay's time is over."""
        return self._steps[max(self.acknowledged, 0)].at_s

    def cancel(self) -> None:
        """End the stream, as soon as what was sent is acknowledged."""
        self._cancelled = True
        self._news.set()

    async def find_place(self, channel: ChannelLog, name: str, since_ms: int) -> None:
        """See in the channel's history how far the replay is, which another process began."""
        seen: set[int] = set()
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                pages = channel.history(name, since_ms=since_ms - MARGIN_MS)
                async with aclosing(pages):
                    async for page in pages:
                        seen.update(
                            event.seq
                            for event in decode_all(page)
                            if event.message_id == self._id
                            and event.gen == self.gen
                            and event.seq is not None
                        )
        except (ChannelUnavailable, TimeoutError):
            return  # what is said again has the id that it had
        while self.acknowledged + 1 in seen:
            self.acknowledged += 1
        self._unshown = self._unshown and self.gen_from not in seen
        if any(seq > self.acknowledged for seq in seen):
            await self._begin_again()

    async def play(self) -> bool:
        """Publish all that is left; False if it was cancelled.

        Raises:
            ChannelUnavailable: Ably does not take it, however often it is told.
        """
        tries = 0
        while True:
            before = self.acknowledged
            try:
                await self._show_start()
                await self._stream()
            except ChannelUnavailable as error:
                tries = 1 if self.acknowledged > before else tries + 1
                if tries >= TRIES or not _passes(error):
                    raise
                await _wait(tries)
                continue
            if self.acknowledged == len(self._steps) - 1:
                return True
            await self.stop("cancelled")
            return False

    async def stop(self, status: str) -> None:
        """End the stream on the channel before its time.

        Raises:
            ChannelUnavailable: Ably does not take it.
        """
        await self._show_start()
        stop = self._event(len(self._steps) - 1)._replace(
            seq=self.acknowledged + 1, id=f"{self._id}:{self.gen}:stop", value=None, error=None
        )
        await post_surely(self._outlet, stop._replace(status=status))  # type: ignore[arg-type]  # of two words

    async def _stream(self) -> None:
        """Send what is left, when it is due, until all is acknowledged or it is cancelled."""
        loop = asyncio.get_running_loop()
        index = self.acknowledged + 1
        base_s = loop.time() - self._steps[self.acknowledged].at_s
        while index < len(self._steps) and not self._cancelled and self._failed is None:
            now_s = loop.time()
            early_s = base_s + self._steps[index].at_s - now_s
            if len(self._sent) >= WINDOW:
                await self._hear(None)
            elif (wait_s := max(early_s, self._pace.wait_s(now_s))) > 0:
                await self._hear(wait_s)
            else:
                self._pace.spend(now_s)  # held up, it catches up, but no faster than it may
                self._send(index)
                index += 1
        await self._settle()

    def _send(self, index: int) -> None:
        ack = asyncio.ensure_future(self._outlet.post(self._event(index)))
        self._sent.append((index, ack))
        ack.add_done_callback(self._answered)

    def _answered(self, answered: asyncio.Future[Sequence[str | None]]) -> None:
        if not answered.cancelled():
            answered.exception()  # looked at, also where nobody waits for it any more
        while self._sent and self._sent[0][1].done():
            index, ack = self._sent[0]
            if ack.cancelled() or ack.exception() is not None:
                self._failed = self._failed or _error_of(ack)
                break
            self._sent.popleft()
            self.acknowledged = index
        self._news.set()

    async def _hear(self, within_s: float | None) -> None:
        """Wait until something is answered or asked for, at most *within_s* seconds."""
        self._news.clear()
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S if within_s is None else within_s):
                await self._news.wait()
        except TimeoutError:
            if within_s is None:
                raise ChannelUnavailable("Ably acknowledges nothing") from None

    async def _settle(self) -> None:
        """Wait until all that was sent is answered.

        Raises:
            ChannelUnavailable: one was not taken; whoever saw a later one has a new start.
        """
        waiting = [ack for _, ack in self._sent]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=ACK_TIMEOUT_S)
            for ack in late:
                ack.cancel()
            await asyncio.sleep(0)  # their callbacks
        failed, self._failed = self._failed, None
        if failed is None:
            return
        later = any(not ack.cancelled() and ack.exception() is None for _, ack in self._sent)
        self._sent.clear()
        if later:
            await self._begin_again()
        raise failed

    async def _begin_again(self) -> None:
        """Give whoever saw a hole what was said so far, in a gen of its own."""
        self.gen += 1
        self.gen_from = max(self.acknowledged, 0)
        self._unshown = True
        await self._keep()  # nobody may go on in a gen that followers have left

    async def _show_start(self) -> None:
        """Publish how the gen begins: its start, and what was said before it in an earlier one.

        It is waited for: the times of the rest count from when the connection stands.
        """
        if not self._unshown:
            return
        await post_surely(self._outlet, self._event(0))
        if self.gen_from:
            last = self._steps[self.gen_from].event
            repair = Event.repair(
                self._id,
                parts=self._schedule.parts_until(self.gen_from),
                gen=self.gen,
                seq=last.seq,
                id=f"{self._id}:{self.gen}:repair",
                client_id=self._client_id,
                replay_of=last.replay_of,
            )
            await post_surely(self._outlet, repair)
        self.acknowledged = max(self.acknowledged, 0)
        self._unshown = False

    def _event(self, index: int) -> Event:
        event = self._steps[index].event
        id_ = f"{self._id}:{self.gen}:{event.seq}"
        return event._replace(message_id=self._id, gen=self.gen, id=id_, client_id=self._client_id)


async def post_surely(outlet: Outlet, event: Event) -> None:
    """Publish *event*, and return when it is acknowledged; try again where that may help.

    Raises:
        ChannelUnavailable: Ably does not take it.
    """
    for attempt in range(TRIES):
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await outlet.post(event)
        except TimeoutError:
            if attempt == TRIES - 1:
                raise ChannelUnavailable("Ably acknowledges nothing") from None
        except ChannelUnavailable as error:
            if attempt == TRIES - 1 or not _passes(error):
                raise
        else:
            return
        await _wait(attempt)


def _error_of(ack: asyncio.Future[Sequence[str | None]]) -> ChannelUnavailable:
    error = None if ack.cancelled() else ack.exception()
    if isinstance(error, ChannelUnavailable):
        return error
    return ChannelUnavailable(f"a replay was not acknowledged: {type(error).__name__}")


def _passes(error: BaseException) -> bool:
    """Whether trying again may help."""
    return not isinstance(error, ChannelRefused) or error.ably_code in RATE_CODES


async def _wait(tries: int) -> None:
    await asyncio.sleep(random.uniform(0.5, 1) * 2**tries * TRY_AGAIN_S)  # noqa: S311 - jitter

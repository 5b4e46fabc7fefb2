"""Player: publish the channel messages of a replay at their times, until all are acknowledged.

Messages are not awaited one by one. If one was refused and a later one was not, followers have seen
a gap. The stream then continues in the next gen, which starts with a repair of the text so far.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from rehydrate.background import Backoff
from rehydrate.core.codecs import decode_all, encode
from rehydrate.core.event import Event
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.rate_limit import RateLimit
from rehydrate.core.replay.schedule import Replay, Schedule
from rehydrate.errors import ChannelRefused, ChannelUnavailable, StoreUnavailable
from rehydrate.permits import PublishPermit, TextErased
from rehydrate.ports import ChannelLog

WINDOW = 64
"""How many channel messages of a replay may be unacknowledged at a time."""

MAX_ATTEMPTS = 5
RETRY_S = 0.25
MAX_RETRY_S = 4.0
ACK_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 10.0

RATE_CODES = range(42900, 43000)
"""Ably's codes for refusals by a rate limit, which a retry may overcome."""

_NO_ACK = f"Ably acknowledged nothing for {ACK_TIMEOUT_S:g} s"


class Outlet(Protocol):
    """Where a replay publishes, in order."""

    def post(
        self, event: Event, *, is_permitted: Callable[[], bool] | None = None
    ) -> Awaitable[Sequence[str | None]]:
        """Send *event* in a publish of its own; return at once.

        Args:
            event: the event, with its id.
            is_permitted: whether it may still be published when its turn comes.

        Returns:
            An awaitable of the serials, once the publish is acknowledged. It raises
            `ChannelUnavailable` if the publish is refused or not acknowledged.
        """
        ...


class Player:
    """Plays one replay, from the step that it has reached.

    Args:
        replay: the replay, with its progress.
        schedule: all steps of it.
        outlet: where to publish.
        client_id: the clientId to publish with.
        permit: the permit to publish the text; renewing it stores the progress and the gen.

    Attributes:
        acknowledged: the last step up to which all are acknowledged; -1 if none is.
        gen: the gen of the stream.
        gen_from: the last step whose content this gen received from a repair.
        begun: whether this player has published anything.
        stopped_as: the status of the stop that history shows; None if it shows none.
    """

    def __init__(
        self,
        replay: Replay,
        schedule: Schedule,
        outlet: Outlet,
        client_id: str | None,
        permit: PublishPermit,
    ) -> None:
        self._replay = replay
        self._id = replay.id
        self._steps = schedule.steps
        self._schedule = schedule
        self._outlet = outlet
        self._client_id = client_id
        self._permit = permit
        self._pace = RateLimit(replay.terms.max_rate)
        self.acknowledged = replay.done or -1
        self.gen = replay.gen
        self.gen_from = replay.gen_from
        self.begun = False
        self.stopped_as: str | None = None
        self._start_pending = replay.gen > 1 or self.acknowledged < 0
        self._sent: deque[tuple[int, asyncio.Future[Sequence[str | None]]]] = deque()
        self._changed = asyncio.Event()
        self._cancelled = replay.cancel_asked
        self._failed: ChannelUnavailable | None = None

    @property
    def done(self) -> int:
        """The number of channel messages with content that are acknowledged."""
        return min(max(self.acknowledged, 0), self._schedule.chunks)

    @property
    def seconds_done(self) -> float:
        """The elapsed part of the replay's time, in seconds."""
        return self._steps[max(self.acknowledged, 0)].at_s

    def cancel(self) -> None:
        """End the stream as soon as all sent messages are acknowledged."""
        self._cancelled = True
        self._changed.set()

    async def resume(self, channel: ChannelLog, name: str, since_ms: int) -> None:
        """Continue a replay that another process began, from the step that history shows.

        Args:
            channel: the channel service.
            name: the channel.
            since_ms: when the replay began, in ms since 1970.
        """
        seen: set[int] = set()
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                pages = channel.history(name, since_ms=since_ms - MARGIN_MS)
                async with aclosing(pages):
                    async for page in pages:
                        for event in decode_all(page):
                            self._find_place(event, seen)
        except (ChannelUnavailable, TimeoutError):
            return  # a step that is published twice has the same id, and is dropped
        while self.acknowledged + 1 in seen:
            self.acknowledged += 1
        self._start_pending = self._start_pending and self.gen_from not in seen
        if any(seq > self.acknowledged for seq in seen):
            await self._restart_in_next_gen()

    def _find_place(self, event: Event, seen: set[int]) -> None:
        """Add the seq of *event* to *seen* if it is a step of this replay, published by one of us.

        Anyone who may publish can send events with the replay's id. A step counts as published
        only if the channel has its very content, from our own clientId.
        """
        if (event.message_id, event.gen) != (self._id, self.gen) or event.seq is None:
            return
        if event.id == _stop_id(self._id, self.gen) and event.client_id == self._client_id:
            self.stopped_as = event.status
        elif event.seq < len(self._steps) and _same(event, self._event(event.seq)):
            seen.add(event.seq)

    async def play(self) -> bool:
        """Publish all remaining steps.

        Returns:
            True when all are acknowledged; False if the replay was cancelled, or its text erased.

        Raises:
            ChannelUnavailable: Ably refuses a step permanently, or refused it `MAX_ATTEMPTS` times.
        """
        try:
            return await self._play()
        except TextErased:
            return False
        finally:
            for _, ack in self._sent:
                ack.cancel()  # what still waits for its turn

    async def _play(self) -> bool:
        attempts, backoff = 0, Backoff(2 * RETRY_S, MAX_RETRY_S)
        while True:
            before = self.acknowledged
            try:
                if self.begun or not self._cancelled:
                    await self._publish_start()
                    await self._stream()
            except ChannelUnavailable as error:
                if self.acknowledged > before:
                    attempts = 0
                    backoff.reset()
                attempts += 1
                if attempts >= MAX_ATTEMPTS or not _may_pass(error):
                    raise
                await asyncio.sleep(backoff.next_s())
                continue
            return self.acknowledged == len(self._steps) - 1

    async def stop(self, status: str) -> None:
        """End the stream after the last acknowledged step, with *status*.

        Raises:
            ChannelUnavailable: Ably refuses the stop.
        """
        try:
            if not self._permit.erased:
                await self._publish_start()
        except TextErased:
            pass  # the stop alone needs no permit
        reached = self._replay._replace(gen=self.gen, done=max(self.acknowledged, 0))
        await publish_with_retries(self._outlet, stop_event(reached, status, self._client_id))

    async def _stream(self) -> None:
        """Send the remaining steps at their times, until all are acknowledged or it is cancelled."""
        loop = asyncio.get_running_loop()
        index = self.acknowledged + 1
        base_s = loop.time() - self._steps[self.acknowledged].at_s
        while index < len(self._steps) and not self._cancelled and self._failed is None:
            if not self._permit.is_valid():
                await self._await_permit()
                continue
            now_s = loop.time()
            early_s = base_s + self._steps[index].at_s - now_s
            if len(self._sent) >= WINDOW:
                await self._wait_for_change(None)
            elif (wait_s := max(early_s, self._pace.wait_s(now_s))) > 0:
                await self._wait_for_change(wait_s)
            else:
                self._pace.spend(now_s)  # a late replay catches up, within its rate
                self._send(index)
                index += 1
        await self._await_all_acks()

    async def _await_permit(self) -> None:
        """Ask for the permit; return when it was given, or the replay is cancelled.

        While the store is away the stream pauses, until the lease is lost.
        """
        try:
            await self._permit.renew()
        except TextErased:
            self.cancel()
        except StoreUnavailable:
            await self._wait_for_change(RETRY_S)

    def _send(self, index: int) -> None:
        posted = self._outlet.post(self._event(index), is_permitted=self._permit.is_valid)
        ack = asyncio.ensure_future(posted)
        self._sent.append((index, ack))
        ack.add_done_callback(self._on_ack)

    def _on_ack(self, answered: asyncio.Future[Sequence[str | None]]) -> None:
        if not answered.cancelled():
            answered.exception()  # marks it as retrieved, also if it is not awaited any more
        while self._sent and self._sent[0][1].done():
            index, ack = self._sent[0]
            if ack.cancelled() or ack.exception() is not None:
                self._failed = self._failed or _error_of(ack)
                break
            self._sent.popleft()
            self.acknowledged = index
        self._changed.set()

    async def _wait_for_change(self, within_s: float | None) -> None:
        """Wait for an acknowledgement or a cancellation, at most *within_s* seconds.

        None: at most `ACK_TIMEOUT_S`, after which `ChannelUnavailable` is raised.
        """
        self._changed.clear()
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S if within_s is None else within_s):
                await self._changed.wait()
        except TimeoutError:
            if within_s is None:
                raise ChannelUnavailable(_NO_ACK) from None

    async def _await_all_acks(self) -> None:
        """Wait until all sent messages are acknowledged or refused.

        Raises:
            ChannelUnavailable: one was refused. If a later one was not, the gen has advanced.
        """
        waiting = [ack for _, ack in self._sent]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=ACK_TIMEOUT_S)
            for ack in late:
                ack.cancel()
            await asyncio.sleep(0)  # runs their callbacks
        failed, self._failed = self._failed, None
        if failed is None:
            return
        later = any(not ack.cancelled() and ack.exception() is None for _, ack in self._sent)
        self._sent.clear()
        if later:
            await self._restart_in_next_gen()
        raise failed

    async def _restart_in_next_gen(self) -> None:
        """Continue in the next gen, so that followers who saw a gap get the text so far."""
        self.gen += 1
        self.gen_from = max(self.acknowledged, 0)
        self._start_pending = True
        await self._permit.renew()  # stores it before it is used: a successor must not continue
        # the earlier gen

    async def _publish_start(self) -> None:
        """Publish the start of the gen, and a repair with the text of earlier gens.

        It is awaited: the times of the steps count from when the connection is up.
        """
        self.begun = True
        if not self._start_pending:
            return
        await publish_with_retries(self._outlet, self._event(0))
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
            await publish_with_retries(self._outlet, repair, self._permit)
        self.acknowledged = max(self.acknowledged, 0)
        self._start_pending = False

    def _event(self, index: int) -> Event:
        event = self._steps[index].event
        id_ = f"{self._id}:{self.gen}:{event.seq}"
        return event._replace(message_id=self._id, gen=self.gen, id=id_, client_id=self._client_id)


async def publish_with_retries(
    outlet: Outlet, event: Event, permit: PublishPermit | None = None
) -> None:
    """Publish *event*, and return when it is acknowledged; retry refusals that may pass.

    Args:
        outlet: where to publish.
        event: the event, with its id.
        permit: the permit to publish it, if it has text of the store.

    Raises:
        TextErased: the text was erased.
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably refuses it, or does not acknowledge it.
    """
    backoff = Backoff(RETRY_S, MAX_RETRY_S)
    is_permitted = None if permit is None else permit.is_valid
    for attempt in range(MAX_ATTEMPTS):
        if permit is not None:
            await permit.renew()
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await outlet.post(event, is_permitted=is_permitted)
        except TimeoutError:
            if attempt == MAX_ATTEMPTS - 1:
                raise ChannelUnavailable(_NO_ACK) from None
        except ChannelUnavailable as error:
            if attempt == MAX_ATTEMPTS - 1 or not _may_pass(error):
                raise
        else:
            return
        await asyncio.sleep(backoff.next_s())


def stop_event(replay: Replay, status: str, client_id: str | None) -> Event:
    """Return the stop of a stream that ends before its last step, after ``done`` chunks."""
    return Event.stop(
        replay.id,
        status=status,  # type: ignore[arg-type]  # of two words
        gen=replay.gen,
        seq=replay.done + 1,
        id=_stop_id(replay.id, replay.gen),
        client_id=client_id,
        replay_of=replay.response_id,
    )


def _stop_id(replay_id: str, gen: int) -> str:
    return f"{replay_id}:{gen}:stop"


def _same(event: Event, step: Event) -> bool:
    """Return True if both have the same place, content and clientId."""
    return event.client_id == step.client_id and encode(event) == encode(step)


def _error_of(ack: asyncio.Future[Sequence[str | None]]) -> ChannelUnavailable:
    error = None if ack.cancelled() else ack.exception()
    if isinstance(error, ChannelUnavailable):
        return error
    return ChannelUnavailable(f"a replay was not acknowledged: {type(error).__name__}")


def _may_pass(error: BaseException) -> bool:
    """Return whether a retry may succeed."""
    return not isinstance(error, ChannelRefused) or error.ably_code in RATE_CODES

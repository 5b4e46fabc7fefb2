"""Sweep: end the responses whose publishers died, and tell the ends that nobody was told.

A response that is open has a lease, which its publisher renews; one that has ended keeps it until
its ``stop`` was acknowledged. Whoever finds a lease run out goes on where the publisher stopped
(laws 6 and 7). An open response is fenced, so that its publisher, should it live, writes no more;
the channel's word is awaited; then the ``stop`` is published, and the fold of that ``stop`` ends
the response, with all the text that came before it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from typing import TYPE_CHECKING, Any

from rehydrate.core.content import NO_SEQ
from rehydrate.core.dialects import tokens
from rehydrate.core.events import Event
from rehydrate.core.extent import END_BYTES
from rehydrate.core.ids import HISTORY_LAG_MS
from rehydrate.core.json import HEADER_BITS, is_json, sent_bytes
from rehydrate.core.response import MessageState, fold
from rehydrate.errors import RehydrateError, StoreUnavailable
from rehydrate.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.hydration import Rules
    from rehydrate.ports import ChannelLog, Due, ResponseStore

_log = logging.getLogger(__name__)

SWEEP_LEASE_S = 6.0
"""How long a sweeper has for one response before another may try: for what it does when nothing is
slow. Two at once do no harm, since both say the same under the same id."""

ACK_TIMEOUT_S = 10.0
ROUNDS = 4
"""How often the channel is read for the stop before it is left to the next sweep."""

AT_ONCE = 64
"""Sweeps at a time: each waits for the channel nearly all of its time, and no other for it."""


async def sweep(
    due: Due,
    *,
    store: ResponseStore,
    channel: ChannelLog,
    rules: Rules,
    record: Callable[[str], Awaitable[object]],
    lease_s: float,
) -> bool:
    """End, or tell, one response whose lease has run out; return whether that was needed.

    *record* catches the conversation up with its channel.

    Raises:
        StoreUnavailable: Postgres does not answer; a later sweep goes on.
        ChannelUnavailable: Ably does not answer; likewise.
    """
    holder = f"sweep-{uuid.uuid4().hex}"
    await record(due.conversation_id)  # a publisher may be alive and cut off from the store alone
    async with store.locked(due.conversation_id, due.channel) as held:
        state = (await held.messages([due.message_id])).get(due.message_id)
        lease = await held.lease(due.message_id)
        if state is None or lease is None or lease.told or not lease.expired:
            return False
        if not state.ended and rules.now_ms() - last_said_ms(state) < lease_s * 1000:
            return False
        await held.fence(due.message_id, holder, SWEEP_LEASE_S)
        ended = state.ended
    if not ended:
        await asyncio.sleep(HISTORY_LAG_MS / 1000)  # what was sent before the fence shows by then
        await record(due.conversation_id)
    for _ in range(ROUNDS):
        await tell(channel, due.channel, await _ending(store, due))
        if await _told(store, due):
            return True
        await asyncio.sleep(HISTORY_LAG_MS / 1000)
        await record(due.conversation_id)
    return True


def last_said_ms(state: MessageState) -> int:
    """When the last event that *state* holds was said, in ms; 0 if nothing tells."""
    ticks = [run.tape.ticks[-1].at_ms for run in state.runs_to_keep() if run.tape.ticks]
    return max([state.started_ms or 0, *ticks])


def untold(state: MessageState) -> list[Event]:
    """What readers may lack of a response that has ended, or is to end: its text, and its stop.

    The store may have what the channel did not take, and a reader who lacks it would take the stop
    for the next event. A zombie may have said something with the number of the stop: the text has
    it as well.
    """
    seq = state.seq or 0
    last, status = (seq, "interrupted") if not state.ended else (None, state.status)
    if last is None and state.end is not None:
        last = max(state.end - 1, *(run.last for run in state.runs), NO_SEQ)
    events = []
    if not state.gaps() and (state.ended or state.runs):
        events = [_event("repair", state, last, value=state.parts())]
    for event in events:
        fold(state, event)  # so that an answer says that it has this repair
    end = state.end if state.ended else seq + 1
    stop = _event("stop", state, end, status=status, value=_short(state.usage))
    return [*events, stop._replace(error=_short(state.error))]


def _short(said: Any) -> Any:
    """*said*, if it fits a stop; readers find the rest in their next answer."""
    fits = is_json(said, most_bits=HEADER_BITS) and sent_bytes(said) <= END_BYTES
    return said if fits else None


async def _ending(store: ResponseStore, due: Due) -> list[Event]:
    """What is to be said of a response that has ended, or that its publisher cannot end."""
    async with store.locked(due.conversation_id, due.channel) as held:
        state = (await held.messages([due.message_id])).get(due.message_id)
        if state is None:
            raise StoreUnavailable(f"response {due.message_id!r} is not stored any more")
        events = untold(state)
        if state.changed:
            await held.put([state])
    return events


def _event(kind: str, state: MessageState, seq: int | None, **fields: object) -> Event:
    place = "repair" if kind == "repair" else seq
    return Event(
        kind,  # type: ignore[arg-type]  # one of two literals
        state.id,
        state.gen,
        seq,
        id=f"{state.id}:{state.gen}:{place}",
        client_id=state.owner.client_id if state.owner else None,
        **fields,  # type: ignore[arg-type]  # fields of Event
    )


async def tell(channel: ChannelLog, channel_name: str, events: list[Event]) -> None:
    """Publish *events* on the channel *channel_name*, each acknowledged before the next.

    Raises:
        ChannelUnavailable: Ably does not take one, or does not answer.
    """
    for event in events:
        name, data, extras = tokens.encode(event)
        outgoing = Outgoing(name, data, event.id or "", extras, event.client_id)
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await channel.publish(channel_name, [outgoing])


async def _told(store: ResponseStore, due: Due) -> bool:
    """Note that the end was told, if the fold of the stop has ended the response."""
    async with store.locked(due.conversation_id, due.channel) as held:
        state = (await held.messages([due.message_id])).get(due.message_id)
        if state is None or not state.ended:
            return False
        await held.told(due.message_id)
        return True


class Sweeper:
    """Looks for leases that have run out, and sweeps them, some at once.

    Args:
        find: gives those that are due.
        sweep: sweeps one.
        every_s: how often to look.
        lease_s: how long a lease lasts; after an outage of the store everybody gets one of grace.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[list[Due]]],
        sweep_one: Callable[[Due], Awaitable[bool]],
        *,
        every_s: float,
        lease_s: float,
    ) -> None:
        self._find = find
        self._sweep = sweep_one
        self._every_s = every_s
        self._lease_s = lease_s
        self._outage = False
        self._task: asyncio.Task[None] | None = None
        self._sweeps: dict[Due, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Begin to look."""
        self._task = self._task or asyncio.create_task(self._run(), name="sweeper")

    async def close(self) -> None:
        """Stop; what is under way is taken up by another sweep."""
        task, self._task = self._task, None
        ending = [*([] if task is None else [task]), *self._sweeps.values()]
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
            try:
                due = await self._find()
            except StoreUnavailable:
                self._outage = True
                continue
            if self._outage:  # publishers could not renew either, and may now
                self._outage = False
                await asyncio.sleep(self._lease_s)
                continue
            for each in due:
                if each not in self._sweeps and len(self._sweeps) < AT_ONCE:
                    self._begin(each)

    def _begin(self, due: Due) -> None:
        sweeping = asyncio.create_task(self._one(due), name="sweep")
        self._sweeps[due] = sweeping
        sweeping.add_done_callback(lambda _: self._sweeps.pop(due, None))

    async def _one(self, due: Due) -> None:
        try:
            if await self._sweep(due):
                _log.info("ended a response whose publisher is gone")
        except Exception as error:  # noqa: BLE001 - one fault of ours ends no sweeper
            self._outage = self._outage or isinstance(error, StoreUnavailable)
            known = isinstance(error, RehydrateError | TimeoutError)
            level = logging.WARNING if known else logging.ERROR
            _log.log(level, "a sweep will be tried again: %s", type(error).__name__)

"""Sweep: end the responses whose publishers died, and tell the ends that nobody was told.

A response that is open has a lease, which its publisher renews; one that has ended keeps it until
its ``stop`` was acknowledged. Whoever finds a lease run out goes on where the publisher stopped
(laws 6 and 7). An open response is fenced, so that its publisher, should it live, writes no more;
the channel's word is awaited; then the ``stop`` is published, and the fold of that ``stop`` ends
the response, with all the text that came before it. All that is due of a conversation is swept
together, so that its channel is read, and its row locked, as often for many as for one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from typing import TYPE_CHECKING, Any

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.json import HEADER_BITS, is_json, sent_bytes
from rehydrate.core.positions import HISTORY_LAG_MS
from rehydrate.core.text.content import NO_SEQ
from rehydrate.core.text.size_budget import END_BYTES
from rehydrate.errors import ChannelRefused, RehydrateError, StoreUnavailable, Unavailable
from rehydrate.publish.publish_queue import packed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rehydrate.context import Context
    from rehydrate.ports import Due, LockedConversation, Publisher

_log = logging.getLogger(__name__)

SWEEP_LEASE_S = 6.0
"""How long a sweeper has for what it sweeps before another may try: for what it does when nothing is
slow. Two at once do no harm, since both say the same under the same id."""

ACK_TIMEOUT_S = 10.0
ROUNDS = 4
"""How often the channel is read for the stop before it is left to the next sweep."""

AT_ONCE = 256
"""Sweeps at a time: each waits for the channel nearly all of its time, and no other for it."""

MOST_APART = 10_000
"""Responses that are remembered to be swept alone."""


async def sweep(
    ctx: Context,
    due: Sequence[Due],
    *,
    record: Callable[[str], Awaitable[object]],
    lease_s: float,
) -> int:
    """End, or tell, responses of one conversation whose leases have run out; return how many.

    *record* catches the conversation up with its channel.

    Raises:
        StoreUnavailable: Postgres does not answer; a later sweep goes on.
        ChannelUnavailable: Ably does not answer; likewise.
        ChannelRefused: Ably does not take what is to be said of one of them.
    """
    conversation_id, _, name = due[0]
    await record(conversation_id)  # a publisher may be alive and cut off from the store alone
    async with ctx.store.locked(conversation_id, name) as held:
        states = await _fenced(held, due, said_before_ms=ctx.now_ms() - int(lease_s * 1000))
    if not states:
        return 0
    if not all(state.ended for state in states):
        await asyncio.sleep(HISTORY_LAG_MS / 1000)  # what was sent before the fence shows by then
        await record(conversation_id)
    ids = [state.id for state in states]
    for _ in range(ROUNDS):
        async with ctx.store.locked(conversation_id, name) as held:
            events = await _endings(held, ids)
        await tell(ctx.publish_queue, name, events)
        for wait in (False, True):
            if wait:
                await asyncio.sleep(HISTORY_LAG_MS / 1000)
                await record(conversation_id)
            async with ctx.store.locked(conversation_id, name) as held:
                ids = await _left(held, ids)
            if not ids:
                return len(states)
    return len(states)


async def _fenced(
    held: LockedConversation, due: Sequence[Due], *, said_before_ms: int
) -> list[MessageState]:
    """Fence those that are still due, and return them."""
    holder = f"sweep-{uuid.uuid4().hex}"
    fenced = []
    for state in (await held.messages([each.message_id for each in due])).values():
        lease = await held.lease(state.id)
        if lease is None or lease.told or not lease.expired:
            continue
        if state.ended or last_said_ms(state) <= said_before_ms:
            await held.fence(state.id, holder, SWEEP_LEASE_S)
            fenced.append(state)
    return fenced


async def _endings(held: LockedConversation, ids: Sequence[str]) -> list[Event]:
    """What is to be said of those that have ended, or that their publishers cannot end."""
    states = (await held.messages(ids)).values()
    events = [event for state in states for event in untold(state)]
    await held.put([state for state in states if state.changed])
    return events


async def _left(held: LockedConversation, ids: Sequence[str]) -> list[str]:
    """Note that the end was told of those that the fold of their stop has ended; the others."""
    states = (await held.messages(ids)).values()
    for state in states:
        if state.ended:
            await held.told(state.id)
    return [state.id for state in states if not state.ended]


def last_said_ms(state: MessageState) -> int:
    """When the last event that *state* holds was said, in ms; 0 if nothing tells."""
    ticks = [run.timings.entries[-1].at_ms for run in state.all_runs() if run.timings.entries]
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


async def tell(outbox: Publisher, channel_name: str, events: Sequence[Event]) -> None:
    """Publish *events* on the channel *channel_name*, as few publishes as they fit, one by one.

    So what comes first is acknowledged before what comes later, or together with it.

    Raises:
        ChannelUnavailable: Ably does not take one, or does not answer.
    """
    with outbox.tray(channel_name) as tray:
        for together in packed(events):
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await tray.post_together(together)


class Sweeper:
    """Looks for leases that have run out, and sweeps conversation by conversation, some at once.

    What fails together for its own sake is tried again one by one: one that nobody can end keeps no
    other open.

    Args:
        find: gives those that are due.
        sweep: sweeps some of one conversation; returns how many.
        every_s: how often to look.
        lease_s: how long a lease lasts; after an outage of the store everybody gets one of grace.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[list[Due]]],
        sweep: Callable[[list[Due]], Awaitable[int]],
        *,
        every_s: float,
        lease_s: float,
    ) -> None:
        self._find = find
        self._sweep = sweep
        self._every_s = every_s
        self._lease_s = lease_s
        self._outage = False
        self._task: asyncio.Task[None] | None = None
        self._sweeps: set[asyncio.Task[None]] = set()
        self._swept: set[Due] = set()
        self._apart: set[Due] = set()

    def open(self) -> None:
        """Begin to look."""
        self._task = self._task or asyncio.create_task(self._run(), name="sweeper")

    async def close(self) -> None:
        """Stop; what is under way is taken up by another sweep."""
        task, self._task = self._task, None
        ending = [*([] if task is None else [task]), *self._sweeps]
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
            for some in self._together(due):
                if len(self._sweeps) < AT_ONCE:
                    self._begin(some)

    def _together(self, due: list[Due]) -> list[list[Due]]:
        """Those that are not being swept: of a conversation together, and who is apart alone."""
        found: dict[str | Due, list[Due]] = {}
        for each in due:
            if each not in self._swept:
                key = each if each in self._apart else each.conversation_id
                found.setdefault(key, []).append(each)
        return list(found.values())

    def _begin(self, due: list[Due]) -> None:
        self._swept.update(due)
        sweeping = asyncio.create_task(self._some(due), name="sweep")
        self._sweeps.add(sweeping)
        sweeping.add_done_callback(self._sweeps.discard)
        sweeping.add_done_callback(lambda _: self._swept.difference_update(due))

    async def _some(self, due: list[Due]) -> None:
        try:
            if count := await self._sweep(due):
                _log.info("ended responses whose publishers are gone: %d", count)
            self._apart.difference_update(due)
        except Exception as error:  # noqa: BLE001 - one fault of ours ends no sweeper
            self._outage = self._outage or isinstance(error, StoreUnavailable)
            away = isinstance(error, Unavailable | TimeoutError)
            if not away or isinstance(error, ChannelRefused):
                self._set_apart(due)
            level = logging.WARNING if away or isinstance(error, RehydrateError) else logging.ERROR
            _log.log(level, "a sweep will be tried again: %s", type(error).__name__)

    def _set_apart(self, due: list[Due]) -> None:
        if len(self._apart) > MOST_APART:  # most were ended elsewhere, and never came again
            self._apart.clear()
        self._apart.update(due)

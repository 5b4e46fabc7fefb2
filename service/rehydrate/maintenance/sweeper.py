"""Sweep: end responses whose publishers died, and publish ends that were never announced.

The argument
------------

An open response has a lease, which its publisher renews. An ended response keeps its lease until
its ``stop`` was acknowledged. A lease that has run out therefore means one of two things: the
publisher may be dead (law 6), or it died between its commit and its ``stop``, so that live readers
wait for an end that never comes (law 7). The sweeper treats both cases alike.

The difficulty is that a lease that has run out does not prove a death. The publisher may be slow,
cut off only from the database, or paused with a token in its send buffer. A simpler sweeper, which
only writes ``interrupted`` into the row, loses text::

    publisher  publishes 1, 2      recorder stores {1, 2}
    publisher  publishes 3, and stalls
    sweeper    row := interrupted {1, 2}
    recorder   reads 3 from the channel, and drops it: the row is terminal

Readers saw 3; the database never will. And a ``stop`` with seq 3, from the text that the sweeper
saw, collides with the token 3: readers that have the token drop the stop and show the response as
open for ever. So the sweeper takes five steps, each of which may be the last one of its process:

1. **Catch up.** The channel may have newer tokens than the store. One that is younger than a lease
   shows a living publisher, cut off from Postgres only: it is left alone.
2. **Fence**, under the row's lock: from here on the publisher's checkpoints and its commit are
   refused, and no other publisher may take the response over. The status stays as it is.
3. **Wait for the lag of history, and catch up again.** A token that was sent before the fence is in
   the store now.
4. **Publish** a repair with the stored text, then ``stop`` with the next seq, ``interrupted`` (or
   with the committed status), and await the acknowledgements. The repair comes first since a
   checkpoint may have stored text that the channel refused; a reader that lacks it would take the
   stop for the next event. A late token of the publisher may still carry the same seq as the stop.
   Readers see a stop whose seq is not the next one, and reload.
5. **Catch up, and let the fold of that stop end the row.** So the response ends at the place of the
   stop in the channel's order, and contains all text before it: readers and the store apply the
   same events in the same order, and agree. Only now is the stop marked as acknowledged.

A sweeper that dies leaves the lease it took by fencing, which runs out; the next sweeper repeats
the steps. Two sweepers at once publish the same events under the same ids, which Ably and the fold
deduplicate. A lost race costs time, never text.

After an outage of the store every publisher gets one more lease: none of them could renew.
The steps run once for all responses of a conversation that are due, so that its channel is read and
its row is locked as often for many responses as for one. See docs/exactness.md, 7, 8 and S12.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from rehydrate.background import PeriodicTask, TaskPool, log_failure
from rehydrate.context import Context
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.json import HEADER_BITS, is_json, sent_bytes
from rehydrate.core.positions import HISTORY_LAG_MS
from rehydrate.core.text.content import END_BYTES, NO_SEQ
from rehydrate.errors import ChannelRefused, StoreUnavailable, Unavailable
from rehydrate.permits import PublishPermit, TextErased, permit_of
from rehydrate.ports import Due, LockedConversation, Publisher
from rehydrate.publish.publish_queue import packed

_log = logging.getLogger(__name__)

SWEEP_LEASE_S = 6.0
"""The lease of a sweeper: the time a sweep takes if nothing is slow. A second sweeper that starts
after that does no harm, since both publish the same events under the same ids."""

ACK_TIMEOUT_S = 10.0

MAX_ATTEMPTS = 4
"""How often a sweep publishes a stop that does not end the row before a later sweep continues."""

MAX_SWEEPS = 256
"""Sweeps that run at a time. Each waits nearly all of its time for its own channel."""

MAX_ISOLATED = 10_000
"""Responses that are remembered to be swept alone."""


async def sweep(
    ctx: Context,
    due: Sequence[Due],
    *,
    record: Callable[[str], Awaitable[object]],
    lease_s: float,
) -> int:
    """End responses of one conversation whose leases have run out, and announce their ends.

    Args:
        ctx: the adapters and limits.
        due: the responses, all of the same conversation.
        record: catches the conversation up with its channel.
        lease_s: the length of a publisher's lease, in seconds.

    Returns:
        How many responses were fenced, and so ended here.

    Raises:
        StoreUnavailable: Postgres does not answer; a later sweep continues.
        ChannelUnavailable: Ably does not answer; a later sweep continues.
        ChannelRefused: Ably refuses the end of one of them.
    """
    conversation_id, _, name = due[0]
    await record(conversation_id)  # 1: a publisher may be alive, and cut off from the store only
    async with ctx.store.locked(conversation_id, name) as locked:
        states = await _fence(locked, due, ctx.now_ms(), int(lease_s * 1000))  # 2
    if not states:
        return 0
    if not all(state.ended for state in states):
        await asyncio.sleep(HISTORY_LAG_MS / 1000)  # 3: history shows what was sent before 2
        await record(conversation_id)
    ids = [state.id for state in states]
    for _ in range(MAX_ATTEMPTS):
        async with ctx.store.locked(conversation_id, name) as locked:
            events = await _ends(locked, ids)
            permit = permit_of(ctx.store, locked.conversation)
        await publish_acked(ctx.publish_queue, name, events, permit)  # 4
        for wait in (False, True):  # an ended row needs no fold, and therefore no wait
            if wait:
                await asyncio.sleep(HISTORY_LAG_MS / 1000)
                await record(conversation_id)  # 5
            async with ctx.store.locked(conversation_id, name) as locked:
                ids = await _mark_acked(locked, ids)
            if not ids:
                return len(states)
    return len(states)


async def _fence(
    locked: LockedConversation, due: Sequence[Due], now_ms: int, lease_ms: int
) -> list[MessageState]:
    """Fence the responses that are still due, and return them.

    An event within the last lease shows a living publisher. One that is further ahead than that was
    dated by a wrong clock and shows nothing: it would keep a dead publisher alive until then.
    """
    holder = f"sweep-{uuid.uuid4().hex}"
    fenced = []
    for state in (await locked.messages([each.message_id for each in due])).values():
        lease = await locked.lease(state.id)
        if lease is None or lease.stop_acked or not lease.expired:
            continue
        if state.posted and state.owner is None:
            await locked.set_stop_acked(state.id)  # the channel has nothing of it that would end
            continue
        if state.ended or abs(now_ms - last_event_ms(state)) >= lease_ms:
            await locked.fence(state.id, holder, SWEEP_LEASE_S)
            fenced.append(state)
    return fenced


async def _ends(locked: LockedConversation, ids: Sequence[str]) -> list[Event]:
    """Return the events that end these responses, and store that their repairs were published."""
    states = (await locked.messages(ids)).values()
    events = [event for state in states for event in unannounced_end(state)]
    await locked.put([state for state in states if state.changed])
    return events


async def _mark_acked(locked: LockedConversation, ids: Sequence[str]) -> list[str]:
    """Mark the stops of ended responses as acknowledged; return the ids that are still open."""
    states = (await locked.messages(ids)).values()
    for state in states:
        if state.ended:
            await locked.set_stop_acked(state.id)
    return [state.id for state in states if not state.ended]


def last_event_ms(state: MessageState) -> int:
    """Return the time of the last event in *state*, in ms since 1970; 0 if it is unknown."""
    timings = [run.timings.entries[-1].at_ms for run in state.all_runs() if run.timings.entries]
    return max([state.started_ms or 0, *timings])


def unannounced_end(state: MessageState) -> list[Event]:
    """Return the events that readers of a response may lack: a repair with its text, and its stop.

    The store may have text that the channel refused, and a reader who lacks it would take the stop
    for the next event. A late token of a fenced publisher may have the seq of the stop; the repair
    covers it as well. *state* is changed: it records that the repair was published.
    """
    seq = state.seq or 0
    last, status = (seq, "interrupted") if not state.ended else (None, state.status)
    if last is None and state.end is not None:
        last = max(state.end - 1, *(run.last for run in state.runs), NO_SEQ)
    events = []
    if not state.gaps() and (state.ended or state.runs):
        events = [_event("repair", state, last, value=state.parts())]
    for event in events:
        fold(state, event)  # an answer then says that it contains this repair
    end = state.end if state.ended else seq + 1
    stop = _event("stop", state, end, status=status, value=_if_small(state.usage))
    return [*events, stop._replace(error=_if_small(state.error))]


def _if_small(value: Any) -> Any:
    """Return *value* if it fits a stop, else None; readers find the whole in their next answer."""
    fits = is_json(value, most_bits=HEADER_BITS) and sent_bytes(value) <= END_BYTES
    return value if fits else None


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


async def publish_acked(
    queue: Publisher, channel_name: str, events: Sequence[Event], permit: PublishPermit
) -> None:
    """Publish *events* in order, in as few publishes as they fit, each awaited before the next.

    So an event is never acknowledged before an earlier one. If the conversation is erased meanwhile,
    the streams get their stops, and nothing else of the store is published.

    Args:
        queue: the publish queue.
        channel_name: the channel.
        events: the events, made of stored text.
        permit: the permit to publish that text.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably refuses one, or does not answer.
        TimeoutError: Ably did not acknowledge one within 10 s.
    """
    with queue.channel(channel_name) as channel_queue:
        for together in packed(events):
            async with asyncio.timeout(ACK_TIMEOUT_S):
                try:
                    await permit.publish(channel_queue, together)
                except TextErased:
                    break
        else:
            return
        stops = [each for each in events if each.kind == "stop"]
        for together in packed(each._replace(value=None, error=None) for each in stops):
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await channel_queue.post_batch(together)


class Sweeper:
    """Periodically sweeps what is due, conversation by conversation, several at a time.

    Responses of a conversation whose common sweep failed are swept one by one from then on, so that
    one which cannot be ended does not keep the others open.

    Args:
        find: return the responses that are due.
        sweep: sweep some of one conversation; return how many.
        every_s: the interval between queries, in seconds.
        lease_s: the length of a lease, in seconds: the delay after an outage of the store.
        name: the name of the task.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[list[Due]]],
        sweep: Callable[[list[Due]], Awaitable[int]],
        *,
        every_s: float,
        lease_s: float,
        name: str = "sweeper",
    ) -> None:
        self._find = find
        self._sweep = sweep
        self._lease_s = lease_s
        self._outage = False
        self._resume_s = 0.0
        self._sweeps = TaskPool()
        self._under_way: set[Due] = set()
        self._isolated: set[Due] = set()
        self.task = PeriodicTask(name, self._start_due, every_s=every_s)

    def open(self) -> None:
        """Start sweeping."""
        self.task.open()

    async def close(self) -> None:
        """Stop; sweeps that are under way are continued by another process, or later."""
        await self.task.close()
        await self._sweeps.close()

    async def _start_due(self) -> None:
        try:
            due = await self._find()
        except StoreUnavailable:
            self._outage = True
            raise
        now_s = asyncio.get_running_loop().time()
        if self._outage:  # publishers could not renew their leases either, and now can
            self._outage, self._resume_s = False, now_s + self._lease_s
        if now_s < self._resume_s:
            return
        for together in self._by_conversation(due):
            if len(self._sweeps) < MAX_SWEEPS:
                self._under_way.update(together)
                sweeping = self._sweeps.start(self._sweep_one(together), name="sweep")
                sweeping.add_done_callback(partial(self._forget, together))

    def _forget(self, due: list[Due], _: object) -> None:
        self._under_way.difference_update(due)

    def _by_conversation(self, due: list[Due]) -> list[list[Due]]:
        """Group what is not being swept: by conversation, isolated responses alone."""
        groups: dict[str | Due, list[Due]] = {}
        for each in due:
            if each not in self._under_way:
                key = each if each in self._isolated else each.conversation_id
                groups.setdefault(key, []).append(each)
        return list(groups.values())

    async def _sweep_one(self, due: list[Due]) -> None:
        try:
            if count := await self._sweep(due):
                _log.info("ended %d responses whose publishers are gone", count)
            self._isolated.difference_update(due)
        except Exception as error:  # noqa: BLE001 - the next query finds these responses again
            self._outage = self._outage or isinstance(error, StoreUnavailable)
            outage = isinstance(error, Unavailable | TimeoutError)
            if not outage or isinstance(error, ChannelRefused):
                self._isolate(due)
            log_failure(_log, "a sweep failed, will retry", error)

    def _isolate(self, due: list[Due]) -> None:
        if len(self._isolated) > MAX_ISOLATED:  # most of them were ended by other processes
            self._isolated.clear()
        self._isolated.update(due)

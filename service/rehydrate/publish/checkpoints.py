"""The rows of a response that is being published: its claim, checkpoints and final text."""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any

from rehydrate.background import jittered, settled
from rehydrate.context import Context
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, Owner, fold
from rehydrate.core.positions import insertion_position
from rehydrate.core.text.content import MAX_GEN
from rehydrate.errors import Conflict, Fenced, StoreUnavailable
from rehydrate.ports import Lease
from rehydrate.publish.response_writer import ResponseWriter

_log = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 30.0
"""How long the end of a response waits for Postgres."""

_RENEW_EARLY = 0.8
"""A checkpoint also renews a lease that is due soon, which saves a statement of its own."""


class Checkpoints:
    """Writes of a publisher into the store, for as long as it holds the lease of its response.

    Attributes:
        lost: whether a checkpoint found that the response belongs to this publisher no longer.
        lease_s: the length of the lease, in seconds.
        renew_s: the interval at which it is renewed, in seconds.
    """

    def __init__(self, ctx: Context, conversation_id: str) -> None:
        terms = ctx.publish_options
        self._where = (conversation_id, ctx.default_channel(conversation_id))
        self._store = ctx.store
        self._now_ms = ctx.now_ms
        self._terms = terms
        self._holder = uuid.uuid4().hex
        self.lease_s = terms.lease_s
        self.renew_s = terms.lease_s / 3
        self.lost = False
        self._granted_s = self._saved_s = -math.inf

    @property
    def idle_s(self) -> float:
        """The time since the last claim or checkpoint, in seconds."""
        return _now_s() - self._saved_s

    async def claim(
        self, response_id: str, prompt_id: str | None, metadata: Any, *, ephemeral: bool = False
    ) -> tuple[int, str]:
        """Claim the response; return its gen and the conversation's channel name.

        If the answer to the commit is lost, the claim is looked up again, so that an id is not
        used up by a claim that succeeded.

        Raises:
            Conflict: it has ended, is being ended by a sweeper, its publisher is alive, its gen cannot
                be raised further, it is the id of another message, or it or its prompt was erased.
        """
        claim = partial(self._claim, response_id, prompt_id, metadata, ephemeral=ephemeral)
        return await settled(claim)

    async def _claim(
        self, response_id: str, prompt_id: str | None, metadata: Any, *, ephemeral: bool
    ) -> tuple[int, str]:
        async with self._store.locked(*self._where) as held:
            tombstone = held.conversation.tombstone
            if tombstone is not None and tombstone.erases(response_id):
                raise Conflict(f"response {response_id!r} was erased: use a new id")
            if tombstone is not None and prompt_id is not None and tombstone.erases(prompt_id):
                raise Conflict(f"prompt {prompt_id!r} was erased")
            state = (await held.messages([response_id])).get(response_id)
            lease = await held.lease(response_id) if state else None
            if state is None:
                state = MessageState(response_id)
            elif lease is not None and lease.holder == self._holder and not lease.fenced:
                return state.gen, held.conversation.channel  # an earlier attempt was committed
            else:
                state.restart(self._next_gen(state, lease))
            state.claim(
                self._terms.client_id,
                at_ms=self._now_ms(),
                prompt_id=prompt_id,
                metadata=metadata,
                ephemeral=ephemeral,
            )
            await held.put([state])
            now_s = _now_s()
            await held.grant(response_id, self._holder, self._terms.lease_s)
        self._granted_s = self._saved_s = now_s
        return state.gen, held.conversation.channel

    def _next_gen(self, state: MessageState, lease: Lease | None) -> int:
        """Return the gen of the publisher that takes over the stored response.

        It is one more than the last, so that readers prefer this publisher. Two cases differ,
        because any client can publish an event with any gen before our publisher begins. A client
        with another clientId cannot compete with this publisher, whatever its gen is, so that gen
        does not count. One with the same clientId can, and if no greater gen is valid, readers
        would ignore everything that is published.

        Raises:
            Conflict: as `claim`.
        """
        _check_free(state, lease)
        if lease is None and state.owner != Owner(self._terms.client_id):
            return 1
        if state.gen >= MAX_GEN:
            raise Conflict(f"response {state.id!r} has the largest gen: begin one with a new id")
        return state.gen + 1

    async def checkpoint(self, writer: ResponseWriter, ending: Sequence[Event] = ()) -> None:
        """Fold the events that are not stored yet, and *ending*, onto the current row.

        Raises:
            Fenced: another publisher or a sweeper has taken the response over, or it was erased.
        """
        events = list(writer.unstored)
        async with self._store.locked(*self._where) as held:
            state = (await held.messages([writer.id])).get(writer.id)
            lease = await held.lease(writer.id) if state else None
            if state is None or lease is None or lease.holder != self._holder or lease.fenced:
                writer.closed = f"response {writer.id!r} no longer belongs to this publisher"
                self.lost = True
                raise Fenced(writer.closed)
            for event in (*events, *ending):
                fold(state, event)
            state.place(writer.position)
            if state.ended:
                state.place(insertion_position(state.started_ms or 0, 0))
            state.annotate(writer.metadata)
            state.mark_changed()
            await held.put([state])
            now_s = _now_s()
            renews = bool(ending) or now_s >= self._granted_s + _RENEW_EARLY * self.renew_s
            if renews:
                await held.grant(writer.id, self._holder, self._terms.lease_s)
        self._granted_s = now_s if renews else self._granted_s
        self._saved_s = _now_s()
        writer.stored(len(events))

    async def commit(self, writer: ResponseWriter, ending: Sequence[Event]) -> None:
        """Do what `checkpoint` does, retrying while Postgres does not answer.

        Raises:
            StoreUnavailable: Postgres did not answer for `COMMIT_TIMEOUT_S`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COMMIT_TIMEOUT_S
        while True:
            try:
                async with asyncio.timeout_at(deadline):  # Postgres may also hang
                    return await self.checkpoint(writer, ending)
            except (StoreUnavailable, TimeoutError) as error:
                if loop.time() > deadline:
                    raise StoreUnavailable(
                        "Postgres did not commit the end of a response in time"
                    ) from error
                await asyncio.sleep(jittered(0.4, 0.5))

    async def mark_stop_acked(self, writer: ResponseWriter) -> None:
        """Record that the stop was acknowledged. If that fails, a sweeper publishes it again."""
        try:
            async with self._store.locked(*self._where) as held:
                await held.set_stop_acked(writer.id)
        except StoreUnavailable:
            _log.warning(
                "an acknowledged stop could not be recorded; a sweeper will publish it again"
            )


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _check_free(state: MessageState, lease: Lease | None) -> None:
    if state.role == "user" or state.anonymous:
        other = "a prompt" if state.role == "user" else "another message"
        raise Conflict(f"{state.id!r} is the id of {other}: use a new id")
    if state.ended:
        raise Conflict(f"response {state.id!r} has ended")
    if lease is not None and lease.fenced:
        raise Conflict(f"response {state.id!r} is being ended: begin one with a new id")
    if lease is not None and lease.holder is not None and not lease.expired:
        raise Conflict(f"response {state.id!r} is being published")

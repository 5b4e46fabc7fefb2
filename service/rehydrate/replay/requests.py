"""Ask for a replay, and see to it that it is kept who asked."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import TERMINAL
from rehydrate.core.json import dump, is_json
from rehydrate.core.positions import check_channel, check_conversation_id, check_message_id
from rehydrate.core.replay.requests import Asker, AuditEntry, Replay, ReplayTerms
from rehydrate.core.replay.schedule import Schedule, scheduled
from rehydrate.errors import BadParameter, Conflict, NotFound, RehydrateError
from rehydrate.replay.validation import (
    Targets,
    check_key,
    check_repairable,
    check_schedule,
    check_terms,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.context import Context
    from rehydrate.core.message import MessageState
    from rehydrate.ports import Conversation

_LONGEST_NOTED = 256
"""Characters of a name in the audit: what is refused may be anything."""


_NO_PLAN: Mapping[str, Any] = MappingProxyType({})


class Asked(NamedTuple):
    """What was asked for, checked: ``terms`` with the channel and the rate filled in.

    ``schedule``: of a stream; ``plan``: what is kept of it.
    """

    conversation_id: str
    response_id: str
    channel: str
    terms: ReplayTerms
    schedule: Schedule | None
    plan: Mapping[str, Any] = _NO_PLAN


class ReplayRequests:
    """Takes requests for replays.

    Args:
        ctx: the adapters and limits.
        targets: where replays may go.
        record: catches a conversation up with its channel.
        wake: says that there is something to do.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        targets: Targets,
        record: Callable[[str], Awaitable[object]],
        wake: Callable[[], None],
    ) -> None:
        self._store = ctx.store
        self._targets = targets
        self._record = record
        self._wake = wake

    async def ask(
        self,
        conversation_id: str,
        response_id: str,
        terms: ReplayTerms,
        *,
        asker: Asker,
        key: str | None = None,
    ) -> Replay:
        """Queue a replay; the same *key* with the same request finds the one it began.

        Raises:
            BadParameter: one of the terms, or the key, is outside its syntax or range.
            NotFound: there is no such response.
            Conflict: it has not ended, cannot be repaired from what is stored, or the key was used
                for another request.
            Forbidden: replays may not go to that channel.
            TooLarge: a part of it does not fit a channel message.
            Busy: too many replays wait.
        """
        note = _note(asker, "replay", conversation_id, response_id, terms)
        async with self._noting_refusals(note):
            check_key(key)
            asked = await self._check(conversation_id, response_id, terms)
            replay = _new(asked, asker)
            detail = {**(note.detail or {}), **_told(asked.terms), "replay_id": replay.id}
            added = await self._store.add_replay(
                replay,
                request=dump([response_id, *asked.terms]),
                key=key,
                note=note._replace(target=asked.channel, detail=detail),
            )
        self._wake()
        return added

    async def dry_run(
        self, conversation_id: str, response_id: str, terms: ReplayTerms, *, asker: Asker
    ) -> Asked:
        """What `ask` would begin; nothing is published.

        Raises:
            RehydrateError: as `ask` does.
        """
        note = _note(asker, "replay_dry_run", conversation_id, response_id, terms)
        async with self._noting_refusals(note):
            asked = await self._check(conversation_id, response_id, terms)
            await self._store.note(note._replace(target=asked.channel))
        return asked

    async def find(self, replay_id: str) -> Replay:
        """The replay with that id.

        Raises:
            NotFound: there is none.
        """
        replay = await self._store.find_replay(replay_id)
        if replay is None:
            raise NotFound(f"there is no replay {replay_id!r}")
        return replay

    async def cancel(self, replay_id: str, *, asker: Asker) -> Replay:
        """Ask that a replay end, which whoever runs it does soon; again changes nothing.

        Raises:
            NotFound: there is none with that id.
        """
        replay = await self.find(replay_id)
        detail = {"response_id": replay.response_id, "replay_id": replay.id}
        where = (replay.conversation_id, replay.channel, asker.address)
        note = AuditEntry(asker.actor, "replay_cancel", "accepted", *where, detail)
        await self._store.cancel_replay(replay_id, note)
        self._wake()
        return await self.find(replay_id)

    @asynccontextmanager
    async def _noting_refusals(self, note: AuditEntry) -> AsyncIterator[None]:
        try:
            yield
        except RehydrateError as error:
            await self._store.note(note._replace(outcome=f"refused: {error.code}"))
            raise

    async def _check(self, conversation_id: str, response_id: str, terms: ReplayTerms) -> Asked:
        check_conversation_id(conversation_id)
        check_message_id(response_id, "response_id")
        check_terms(terms)
        conversation, state = await self._find_response(conversation_id, response_id)
        channel, own = terms.channel, conversation.channel
        if channel is None:
            channel = own
        elif check_channel(channel) != own:
            if terms.mode == "repair":
                raise BadParameter("channel", "a repair goes to the conversation's own channel")
            self._targets.check(channel)
        rate = self._targets.rate(terms.max_rate, own=channel == own)
        terms = terms._replace(channel=channel, max_rate=rate)
        schedule, plan = None, _NO_PLAN
        if terms.mode == "repair":
            check_repairable(state)
        else:  # of a million events it takes seconds
            schedule, plan = await asyncio.to_thread(planned, state, terms)
        return Asked(conversation_id, response_id, channel, terms, schedule, plan)

    async def _find_response(
        self, conversation_id: str, response_id: str
    ) -> tuple[Conversation, MessageState]:
        state = await self._state(conversation_id, response_id)
        if state is None or state.status not in TERMINAL:  # the channel may know more
            await self._record(conversation_id)
            state = await self._state(conversation_id, response_id)
        conversation = await self._store.conversation(conversation_id)
        if conversation is None or state is None or state.role != "assistant":
            raise NotFound(f"the conversation has no response {response_id!r}")
        if state.status not in TERMINAL:
            raise Conflict(f"response {response_id!r} has not ended")
        return conversation, state

    async def _state(self, conversation_id: str, response_id: str) -> MessageState | None:
        found = await self._store.states(conversation_id, [response_id])
        return next((state for state in found if state.id == response_id), None)


def planned(state: MessageState, terms: ReplayTerms) -> tuple[Schedule, Mapping[str, Any]]:
    """The schedule of *state* on *terms*, and what is kept of it beside its length.

    Raises:
        BadParameter: there is nothing from that seq on.
        TooLarge: a part of it does not fit a channel message.
    """
    schedule = scheduled(state, terms)
    check_schedule(schedule, terms)
    plan = {"joined": schedule.joined, "even": schedule.even, "gaps": schedule.gaps}
    return schedule, {**plan, "digest": schedule.digest()}


def _new(asked: Asked, asker: Asker) -> Replay:
    schedule = asked.schedule
    return Replay(
        conversation_id=asked.conversation_id,
        id=f"replay-{uuid.uuid4().hex}",
        response_id=asked.response_id,
        channel=asked.channel,
        terms=asked.terms,
        state="queued",
        chunks=1 if schedule is None else schedule.chunks,
        seconds=0.0 if schedule is None else schedule.seconds,
        asked_by=asker.actor,
        created_ms=0,
        plan=asked.plan,
    )


def _note(
    asker: Asker, action: str, conversation_id: str, response_id: str, terms: ReplayTerms
) -> AuditEntry:
    detail = {"response_id": _noted(response_id), **_told(terms)}
    target = terms.channel and _noted(terms.channel)
    where = (_noted(conversation_id), target, asker.address)
    return AuditEntry(asker.actor, action, "accepted", *where, detail)


def _told(terms: ReplayTerms) -> dict[str, Any]:
    told = terms._asdict()
    del told["channel"]
    return {key: value if is_json(value) else str(value) for key, value in told.items()}


def _noted(text: str) -> str:
    """*text* as it may be kept and shown, whatever it is."""
    return ascii(text)[1 : _LONGEST_NOTED + 1] if not text.isprintable() else text[:_LONGEST_NOTED]

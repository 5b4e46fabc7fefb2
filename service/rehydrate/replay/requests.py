"""Requests for replays: check, queue and cancel them, with an audit entry for each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from rehydrate.context import Context
from rehydrate.core.event import TERMINAL
from rehydrate.core.json import dump, is_json
from rehydrate.core.message import MessageState
from rehydrate.core.positions import check_channel, check_conversation_id, check_message_id
from rehydrate.core.replay.schedule import (
    AuditEntry,
    Replay,
    ReplayTerms,
    Requester,
    Schedule,
    scheduled,
)
from rehydrate.errors import BadParameter, Conflict, NotFound, RehydrateError
from rehydrate.ports import Conversation
from rehydrate.replay.validation import (
    Targets,
    check_key,
    check_repairable,
    check_schedule,
    check_terms,
)

_MAX_AUDITED = 256
"""Characters of a name in the audit log: a refused request may contain any text."""

_NO_PLAN: Mapping[str, Any] = MappingProxyType({})


class CheckedRequest(NamedTuple):
    """A checked request.

    Attributes:
        conversation_id: the conversation.
        response_id: the response to replay.
        channel: the channel to publish on.
        terms: the terms, with the channel and the rate filled in.
        schedule: the schedule of a stream; None for a repair.
        plan: the part of the schedule that is stored: its flags and its digest.
    """

    conversation_id: str
    response_id: str
    channel: str
    terms: ReplayTerms
    schedule: Schedule | None
    plan: Mapping[str, Any] = _NO_PLAN


class ReplayRequests:
    """Checks and queues replays.

    Args:
        ctx: the adapters and limits.
        targets: the channels on which replays may be published.
        record: catches a conversation up with its channel.
        wake: wakes the worker of this process.
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
        asker: Requester,
        key: str | None = None,
    ) -> Replay:
        """Queue a replay.

        Args:
            conversation_id: the conversation.
            response_id: the response to replay.
            terms: how to replay it.
            asker: who requests it, for the audit log.
            key: an idempotency key: the same key with the same request returns the first replay.

        Returns:
            The queued replay.

        Raises:
            BadParameter: one of the terms, or the key, is outside its syntax or range.
            NotFound: the conversation has no such response.
            Conflict: the response has not ended, is not stored whole (for a repair), or the key was
                used for another request.
            Forbidden: replays may not be published on that channel.
            TooLarge: a part of the response does not fit a channel message.
            Busy: too many replays are queued.
        """
        note = _note(asker, "replay", conversation_id, response_id, terms)
        async with self._auditing_refusals(note):
            check_key(key)
            request = await self._check(conversation_id, response_id, terms)
            replay = _queued(request, asker)
            detail = {**(note.detail or {}), **_terms_json(request.terms), "replay_id": replay.id}
            added = await self._store.add_replay(
                replay,
                request=dump([response_id, *request.terms]),
                key=key,
                note=note._replace(target=request.channel, detail=detail),
            )
        self._wake()
        return added

    async def dry_run(
        self, conversation_id: str, response_id: str, terms: ReplayTerms, *, asker: Requester
    ) -> CheckedRequest:
        """Check a request and return what `ask` would queue; nothing is published.

        Raises:
            RehydrateError: as `ask` does.
        """
        note = _note(asker, "replay_dry_run", conversation_id, response_id, terms)
        async with self._auditing_refusals(note):
            request = await self._check(conversation_id, response_id, terms)
            await self._store.note(note._replace(target=request.channel))
        return request

    async def find(self, replay_id: str) -> Replay:
        """Return the replay with that id.

        Raises:
            NotFound: no replay has that id.
        """
        replay = await self._store.find_replay(replay_id)
        if replay is None:
            raise NotFound(f"no replay has the id {replay_id!r}")
        return replay

    async def cancel(self, replay_id: str, *, asker: Requester) -> Replay:
        """Request that a replay end; its process ends it soon. Repeating it changes nothing.

        Raises:
            NotFound: no replay has that id.
        """
        replay = await self.find(replay_id)
        detail = {"response_id": replay.response_id, "replay_id": replay.id}
        where = (replay.conversation_id, replay.channel, asker.address)
        note = AuditEntry(asker.actor, "replay_cancel", "accepted", *where, detail)
        await self._store.cancel_replay(replay_id, note)
        self._wake()
        return await self.find(replay_id)

    @asynccontextmanager
    async def _auditing_refusals(self, note: AuditEntry) -> AsyncIterator[None]:
        try:
            yield
        except RehydrateError as error:
            await self._store.note(note._replace(outcome=f"refused: {error.code}"))
            raise

    async def _check(
        self, conversation_id: str, response_id: str, terms: ReplayTerms
    ) -> CheckedRequest:
        check_conversation_id(conversation_id)
        check_message_id(response_id, "response_id")
        terms = check_terms(terms)
        conversation, state = await self._find_response(conversation_id, response_id)
        channel, own = terms.channel, conversation.channel
        if channel is None:
            channel = own
        elif check_channel(channel) != own:
            if terms.mode == "repair":
                raise BadParameter(
                    "channel", "a repair is published on the conversation's own channel"
                )
            self._targets.check(channel)
        rate = self._targets.rate(terms.max_rate, own=channel == own)
        terms = terms._replace(channel=channel, max_rate=rate)
        schedule, plan = None, _NO_PLAN
        if terms.mode == "repair":
            check_repairable(state)
        else:  # takes seconds for a million events
            schedule, plan = await asyncio.to_thread(planned, state, terms)
        return CheckedRequest(conversation_id, response_id, channel, terms, schedule, plan)

    async def _find_response(
        self, conversation_id: str, response_id: str
    ) -> tuple[Conversation, MessageState]:
        state = await self._state(conversation_id, response_id)
        if state is None or state.status not in TERMINAL:  # the channel may have newer events
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
    """Return the schedule of *state* on *terms*, and the part of it that is stored.

    Raises:
        BadParameter: the response has no event from ``from_seq`` on, or it would take too long.
        TooLarge: a part of it does not fit a channel message.
    """
    schedule = scheduled(state, terms)
    check_schedule(schedule, terms)
    plan = {"joined": schedule.joined, "even": schedule.even, "gaps": schedule.gaps}
    return schedule, {**plan, "digest": schedule.digest()}


def _queued(request: CheckedRequest, asker: Requester) -> Replay:
    schedule = request.schedule
    return Replay(
        conversation_id=request.conversation_id,
        id=f"replay-{uuid.uuid4().hex}",
        response_id=request.response_id,
        channel=request.channel,
        terms=request.terms,
        state="queued",
        chunks=1 if schedule is None else schedule.chunks,
        seconds=0.0 if schedule is None else schedule.seconds,
        asked_by=asker.actor,
        created_ms=0,
        plan=request.plan,
    )


def _note(
    asker: Requester, action: str, conversation_id: str, response_id: str, terms: ReplayTerms
) -> AuditEntry:
    detail = {"response_id": _audited(response_id), **_terms_json(terms)}
    target = terms.channel and _audited(terms.channel)
    where = (_audited(conversation_id), target, asker.address)
    return AuditEntry(asker.actor, action, "accepted", *where, detail)


def _terms_json(terms: ReplayTerms) -> dict[str, Any]:
    fields = terms._asdict()
    del fields["channel"]
    return {key: value if is_json(value) else str(value) for key, value in fields.items()}


def _audited(text: str) -> str:
    """Return *text*, shortened, and escaped if it has characters that cannot be printed."""
    return ascii(text)[1 : _MAX_AUDITED + 1] if not text.isprintable() else text[:_MAX_AUDITED]

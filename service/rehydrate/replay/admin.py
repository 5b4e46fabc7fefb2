"""Admin operations on replays: request, find, cancel and list them, and read the audit log.

Each request is checked, and creates an audit entry even if it is refused.
"""

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
from rehydrate.core.positions import Cursor, check_channel, check_conversation_id, check_message_id
from rehydrate.core.replay.schedule import (
    AuditEntry,
    Replay,
    ReplayTerms,
    Requester,
    Schedule,
)
from rehydrate.errors import BadParameter, Conflict, NotFound, RehydrateError
from rehydrate.ports import Conversation
from rehydrate.replay.validation import (
    Targets,
    check_key,
    check_repairable,
    check_terms,
    planned,
)
from rehydrate.replay.worker import ReplayWorker

CANCEL_WITHIN_S = 2.0
"""How long a cancel waits for the replay to end."""

LIBRARY = Requester("python")
"""Who requests a replay that the application itself does not attribute to a person."""

_POLL_S = 0.05

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


class ReplayAdmin:
    """The use cases behind the admin routes.

    Args:
        ctx: the adapters and limits.
        worker: runs the replays of this process.
        targets: the channels on which replays may be published.
        record: catches a conversation up with its channel.
    """

    def __init__(
        self,
        ctx: Context,
        worker: ReplayWorker,
        *,
        targets: Targets,
        record: Callable[[str], Awaitable[object]],
    ) -> None:
        self._store = ctx.store
        self._worker = worker
        self._targets = targets
        self._record = record

    async def replay(
        self,
        conversation_id: str,
        response_id: str,
        terms: ReplayTerms,
        *,
        asker: Requester = LIBRARY,
        key: str | None = None,
    ) -> Replay:
        """Queue a replay on *terms*; see `rehydrate.History.replay`.

        *key*: the same key with the same request returns the first replay.
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
        self._worker.wake()
        return added

    async def replay_dry_run(
        self,
        conversation_id: str,
        response_id: str,
        terms: ReplayTerms,
        *,
        asker: Requester = LIBRARY,
    ) -> CheckedRequest:
        """Return what `replay` would publish on *terms*, and when; publish nothing.

        Raises:
            RehydrateError: as `replay` does.
        """
        note = _note(asker, "replay_dry_run", conversation_id, response_id, terms)
        async with self._auditing_refusals(note):
            request = await self._check(conversation_id, response_id, terms)
            await self._store.note(note._replace(target=request.channel))
        return request

    async def find_replay(self, replay_id: str) -> Replay:
        """Return a replay with its progress.

        Raises:
            NotFound: no replay has that id.
        """
        replay = await self._store.find_replay(replay_id)
        if replay is None:
            raise NotFound(f"no replay has the id {replay_id!r}")
        return replay

    async def cancel_replay(self, replay_id: str, *, asker: Requester = LIBRARY) -> Replay:
        """Cancel a replay, and wait up to `CANCEL_WITHIN_S` for it to end; idempotent.

        Raises:
            NotFound: no replay has that id.
        """
        replay = await self.find_replay(replay_id)
        detail = {"response_id": replay.response_id, "replay_id": replay.id}
        where = (replay.conversation_id, replay.channel, asker.address)
        note = AuditEntry(asker.actor, "replay_cancel", "accepted", *where, detail)
        await self._store.cancel_replay(replay_id, note)
        self._worker.wake()
        replay = await self.find_replay(replay_id)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + CANCEL_WITHIN_S
        while not replay.ended and loop.time() < deadline_s:
            await asyncio.sleep(_POLL_S)
            replay = await self.find_replay(replay_id)
        return replay

    async def stop_stream(self, replay: Replay) -> None:
        """Publish the stop of *replay* without the store, which does not answer.

        Whichever process continues the replay later finds that stop, and ends it as cancelled.
        """
        await self._worker.stop_stream(replay)

    async def replays(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[Replay], Cursor | None]:
        """Return replays, the newest first, and the cursor of the next page."""
        return await self._store.replays(limit=limit, before=before)

    async def audit(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Return audit entries, the newest first, and the cursor of the next page."""
        return await self._store.audit(limit=limit, before=before)

    async def note(self, entry: AuditEntry) -> None:
        """Append *entry* to the audit, permanently."""
        await self._store.note(entry)

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
    """Return *text*, shortened, and escaped if it has characters that are not printable."""
    return ascii(text)[1 : _MAX_AUDITED + 1] if not text.isprintable() else text[:_MAX_AUDITED]

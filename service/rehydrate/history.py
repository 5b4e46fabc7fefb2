"""`History`: every use case as a method, over one database and one Ably app."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from rehydrate import composition
from rehydrate.api.conversations import router
from rehydrate.api.service import ReaderCalls
from rehydrate.background import tasks_state
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.replay.schedule import ReplayTerms
from rehydrate.errors import Busy, ChannelUnavailable
from rehydrate.follow.subscriptions import PromptWatcher
from rehydrate.hydrate.hydrate import Page, hydrate, hydrate_message
from rehydrate.maintenance.verify import Verified, verify
from rehydrate.model_methods import ModelMethods
from rehydrate.publish import prompts
from rehydrate.publish.respond import Response, respond
from rehydrate.publish.unanswered import unanswered
from rehydrate.record.catch_up import Recorded, catch_up
from rehydrate.record.erase import erase
from rehydrate.record.import_messages import store_messages
from rehydrate.replay.admin import LIBRARY
from rehydrate.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from fastapi import APIRouter, FastAPI

    from rehydrate.api.conversations import Authorize
    from rehydrate.context import Context
    from rehydrate.core.positions import Cursor
    from rehydrate.core.replay.schedule import Mode, Replay, Requester
    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.subscriptions import Follower
    from rehydrate.hydrate.hydrate import Hydrated
    from rehydrate.ports import Conversation
    from rehydrate.providers.model_runs import ModelRuns
    from rehydrate.publish.unanswered import Prompt
    from rehydrate.record.import_messages import NewMessage, StoreResult


class History(ModelMethods):
    """Conversations over one database and one Ably app.

    Nothing connects before `open` (or ``async with``).

    Args:
        settings: the settings; read from the environment if omitted.

    Attributes:
        settings: the settings.
        authority: decides what tokens and keys permit.
        readers: the use cases behind the two hot routes.
        inspector, admin: the use cases behind the routes of admins.

    Raises:
        NotConfigured: no database or no Ably key is set, or a setting is invalid; names it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self._adapters = made = composition.adapters(self.settings)
        self._store, self._channel, self._metrics = made.store, made.channel, made.metrics
        self._context, self.authority = made.context, made.channel
        self._running = running = composition.services(
            self.settings, made, record=self.catch_up, respond=self.respond
        )
        self._subscriptions = running.subscriptions
        self.readers = ReaderCalls(
            made.context.channel_of, partial(hydrate, made.context), running.subscriptions.joined
        )
        self._maintenance, self._replay_worker = running.maintenance, running.replay_worker
        self.admin, self.inspector = running.admin, running.inspector
        self._tasks = composition.tasks(made, running)
        self._lifespan = composition.lifespan(made, running)

    @property
    def context(self) -> Context:
        """The adapters and limits of the use cases: store, channel, publish queue."""
        self._lifespan.check_loop()
        return self._context

    async def open(self) -> None:
        """Connect to the store, and read Ably's clock; Ably is connected to when first needed.

        Opening an open one changes nothing, and a closed one may be opened again.
        """
        await self._lifespan.open()

    async def close(self) -> None:
        """End all tasks and close all connections; without effect unless it is open."""
        await self._lifespan.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def hydrate(
        self,
        conversation_id: str,
        *,
        until: str | None = None,
        limit: int = 50,
        before: Cursor | None = None,
    ) -> Hydrated:
        """Return what a client must show before its first live message.

        The answer reaches at least *until* (an attach point), or 2 s before the call without it.

        Raises:
            BadParameter: an argument is outside its syntax or range.
            StoreUnavailable: Postgres does not answer.
        """
        page = Page(limit, before)
        return await hydrate(self.context, conversation_id, until=until, page=page)

    async def message(self, conversation_id: str, message_id: str) -> bytes:
        """Return one message in its wire form, encoded as JSON, as `hydrate` shows it.

        Raises:
            BadParameter: *conversation_id* is outside its syntax.
            NotFound: there is no message with that id.
            ChannelUnavailable: the store has none, and Ably does not answer.
            StoreUnavailable: Postgres does not answer.
        """
        return await hydrate_message(self.context, conversation_id, message_id)

    async def conversations(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Return conversations, the newest first, and the cursor of the next page."""
        return await self.context.store.conversations(limit=limit, before=before)

    async def channel_of(self, conversation_id: str) -> str:
        """Return the channel of a conversation: its row's, else the template's. Cached."""
        check_conversation_id(conversation_id)
        return await self._adapters.names.of(conversation_id)

    async def follow(self, conversation_id: str, *, limit: int = 50) -> AsyncGenerator[FollowEvent]:
        """Yield a snapshot (as `hydrate` returns it), then each live event once and in order.

        When events may have been missed, ``again`` comes, and a new snapshot instead of them. The
        generator does not end by itself.

        Args:
            conversation_id: the conversation.
            limit: how many finished messages a snapshot has, the newest.

        Raises:
            BadParameter: an argument is outside its syntax or range.
            StoreUnavailable: Postgres does not answer at the start.
            ChannelRefused: Ably refuses the attach.
        """
        async with self.joined(conversation_id, limit=limit) as follower:
            async for event in follower:
                yield event

    def joined(
        self, conversation_id: str, *, limit: int = 50, after: str | None = None
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow while the block runs, where possible after the event with the id *after*."""
        self._lifespan.check_loop()
        return self._subscriptions.joined(conversation_id, limit=limit, after=after)

    async def unanswered(
        self, conversation_id: str, *, wait: bool = False
    ) -> AsyncGenerator[Prompt]:
        """Yield the prompts without a response, each once and in order: the work of an agent.

        A response with the prompt's id as ``prompt_id`` answers it. While you work on a prompt, no
        other agent gets it; if your process dies, or leaves it without a response, it is offered to
        the next agent, within 30 s. *wait*: continue with later prompts, without end.

        Raises:
            BadParameter: *conversation_id* is outside its syntax.
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not answer.
        """
        async with AsyncExitStack() as stack:
            watch = None
            if wait:
                follower = await stack.enter_async_context(self.joined(conversation_id, limit=1))
                watch = PromptWatcher(follower).wait
            found = unanswered(self.context, conversation_id, record=self.catch_up, wait=watch)
            async for prompt in await stack.enter_async_context(aclosing(found)):
                yield prompt

    @asynccontextmanager
    async def respond(
        self,
        conversation_id: str,
        response_id: str,
        *,
        prompt_id: str | None = None,
        prompt: str | None = None,
        metadata: Any = None,
        ephemeral: bool = False,
    ) -> AsyncIterator[Response]:
        """Publish the response *response_id*, written in the block; it ends with the block.

        *prompt*: a text to publish first, as the prompt *prompt_id*, unless the response is taken.

        *ephemeral*: Ably stores only its start and its end, none of its content; clients that join
        rely on checkpoints, half a second apart.

        Raises:
            Conflict: it has ended already, or its publisher is alive.
            Fenced: it was taken over, ended or erased in the meantime.
            StoreUnavailable: Postgres did not answer for 30 s; the text is not committed.
            ChannelUnavailable: the text is committed, but Ably did not acknowledge the end.
        """
        publishing = respond(
            self.context,
            conversation_id,
            response_id,
            prompt_id=prompt_id,
            prompt=prompt,
            metadata=metadata,
            ephemeral=ephemeral,
        )
        async with publishing as response:
            self._maintenance.attend(conversation_id)
            yield response
        self._maintenance.attend(conversation_id)

    async def prompt(self, conversation_id: str, text: str, *, prompt_id: str | None = None) -> str:
        """Publish and store a prompt on behalf of a user; return its id.

        The same *prompt_id* with the same *text* again changes nothing.

        Raises:
            BadParameter: an id is outside its syntax, or *text* is empty.
            TooLarge: *text* does not fit a channel message.
            Conflict: a message with that id and other content exists.
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not acknowledge it.
        """
        return await prompts.prompt(self.context, conversation_id, text, prompt_id=prompt_id)

    @property
    def _models(self) -> ModelRuns:
        self._lifespan.check_loop()
        return self._running.models

    async def cancel(self, conversation_id: str, response_id: str) -> None:
        """Cancel a response, in whichever process it is published.

        It ends as ``cancelled``, with the text so far. A response that has ended is not changed.

        Raises:
            BadParameter: an id is outside its syntax.
            ChannelUnavailable: Ably does not acknowledge it.
        """
        await prompts.cancel(self.context, conversation_id, response_id)

    async def replay(
        self,
        conversation_id: str,
        response_id: str,
        *,
        mode: Mode = "stream",
        speed: float = 1.0,
        channel: str | None = None,
        from_seq: int = 0,
        max_rate: float = 0.0,
        asker: Requester = LIBRARY,
        idempotency_key: str | None = None,
    ) -> Replay:
        """Publish a stored response again: queue that, for any process to run.

        Args:
            conversation_id: the conversation.
            response_id: the response.
            mode: ``stream``: as a separate stream, which followers see live and no answer has;
                ``repair``: overwrite what live readers show with the stored text.
            speed: times the original pace; 0: as fast as *max_rate* allows.
            channel: the channel to publish on; None: the conversation's own.
            from_seq: the first event to publish.
            max_rate: channel messages a second; 0: at most 25 on the conversation's own channel.
            asker: the admin that the audit names.
            idempotency_key: a repeated request with the same key returns the first one's replay.

        Raises:
            BadParameter: an argument is outside its syntax or range.
            NotFound: the conversation has no such response.
            Conflict: the response has not ended, or the key was used for another request.
            Forbidden: replays may not go to that channel.
            TooLarge: a part of the response does not fit a channel message.
            Busy: too many replays wait.
        """
        self._lifespan.check_loop()
        terms = ReplayTerms(mode, speed, channel, from_seq, max_rate)
        return await self.admin.replay(
            conversation_id, response_id, terms, asker=asker, key=idempotency_key
        )

    async def catch_up(self, conversation_id: str) -> Recorded:
        """Fold the channel's messages since the watermark into the store.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not answer.
        """
        await self._channel.sync_clock()  # stored times must not depend on a wrong clock
        recorded = await catch_up(self.context, conversation_id)
        for outcome, count in recorded.counts.items():
            self._metrics.observe("outcome", outcome, count)
        if recorded.edited:
            self._subscriptions.changed(conversation_id)
        return recorded

    async def store_messages(
        self, conversation_id: str, messages: Sequence[NewMessage]
    ) -> StoreResult:
        """Store finished messages, all or none; the same messages again change nothing.

        Raises:
            Conflict: a message exists with other content, or is being published.
        """
        result = await store_messages(self.context, conversation_id, messages)
        if result.stored:
            self._subscriptions.changed(conversation_id)
        return result

    async def erase(self, conversation_id: str) -> None:
        """Erase everything published in a conversation so far, permanently. Takes a second.

        Raises:
            StoreUnavailable: Postgres does not answer; nothing is erased.
        """
        wake = (self._subscriptions.changed, lambda _: self._replay_worker.wake())
        await erase(self.context, conversation_id, wake)

    async def verify(self, conversation_id: str, *, mend: bool = False) -> Verified:
        """Compare the stored messages with those still on the channel; *mend*: repair differences.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelUnavailable: Ably does not answer; earlier repairs are kept.
        """
        verified = await verify(self.context, conversation_id, record=self.catch_up, mend=mend)
        if any(finding.mended for finding in verified.findings):
            self._subscriptions.changed(conversation_id)
        return verified

    def record_soon(self, channels: Collection[str]) -> None:
        """Wake the recorder for the conversations of *channels*; return immediately.

        Args:
            channels: their names; in a mapping with the time of the oldest message on each that was
                edited, in ms since 1970, from which on it is read again.

        Raises:
            Busy: the recording queue is full.
        """
        if self._maintenance.busy:
            raise Busy("recording queue is full; retry later")
        if isinstance(channels, Mapping):
            for channel, edited_ms in channels.items():
                if edited_ms is not None:
                    self.context.note_edit(channel, edited_ms)
        self._maintenance.announce(channels)

    async def ready(self) -> dict[str, str]:
        """Return the state of each dependency, and of the background tasks, by name.

        "ok", or a fault that does not stop the service.

        Raises:
            StoreUnavailable: Postgres does not answer, or its schema is not at head.
        """
        await self.context.store.ready()
        checks = {"store": "ok", "channel": "ok", "tasks": tasks_state(self._tasks)}
        try:
            await self._channel.ready()
        except ChannelUnavailable as error:
            checks["channel"] = str(error)
        return checks

    def router(self, *, authorize: Authorize) -> APIRouter:
        """Return the HTTP routes, for an application whose lifespan opens and closes this.

        ``authorize(request, conversation_id)`` returns whether the caller may; falsy is 403.
        """
        return router(self, authorize=authorize, metrics=self._metrics)

    def app(self) -> FastAPI:
        """Return the service as an application of its own.

        Raises:
            NotConfigured: no key is set that a token could be checked with.
        """
        return composition.application(self.settings, self, self._adapters, self._running)

"""Wiring: the only place that names concrete rooms. `History` is the library's front door."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from rehydrate.ably.channel_log import AblyChannel
from rehydrate.answering import Driving
from rehydrate.api.app import create_app
from rehydrate.api.auth.access import Access
from rehydrate.api.conversations import router
from rehydrate.api.metrics import Metrics
from rehydrate.api.webhooks import WebhookSenders
from rehydrate.channel_names import ChannelNames
from rehydrate.context import Context, PublishOptions
from rehydrate.core.capability import Capability
from rehydrate.core.fold import Outcome
from rehydrate.core.positions import check_conversation_id
from rehydrate.embedded.postgres import EmbeddedPostgres, EmbeddedPostgresError
from rehydrate.errors import ChannelUnavailable, NotConfigured, NotFound, StoreUnavailable
from rehydrate.follow.feed import FollowOptions
from rehydrate.follow.subscriptions import Subscriptions
from rehydrate.history_inspecting import Inspecting
from rehydrate.history_joining import Joining
from rehydrate.history_keeping import Keeping
from rehydrate.history_replaying import Replaying, desk_and_jobs
from rehydrate.hydrate.history_window import Prefetch, from_channel
from rehydrate.hydrate.hydrate import Hydrated, Page, hydrate
from rehydrate.maintenance.tasks import Maintenance, MaintenanceOptions, MaintenanceParts
from rehydrate.postgres import migrations
from rehydrate.postgres.store import PostgresStore
from rehydrate.postgres.url import DatabaseUrlError
from rehydrate.publish.publish_queue import PublishQueue
from rehydrate.settings import Settings, load_settings, revealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from types import TracebackType

    from fastapi import APIRouter, FastAPI

    from rehydrate.api.conversations import Authorize
    from rehydrate.core.event import ChannelMessage
    from rehydrate.core.positions import Cursor
    from rehydrate.ports import Conversation

_KNOWN_WATERMARKS = 10_000


class History(Inspecting, Joining, Keeping, Driving, Replaying):
    """Conversations over one database and one Ably app.

    Settings come from the environment unless given; nothing connects before `open` (or
    ``async with``).

    Raises:
        NotConfigured: no database or no Ably key is set, or a setting is wrong; names it.
    """

    _store: PostgresStore
    _channel: AblyChannel

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        with _naming_the_database():
            self._store = PostgresStore(
                self.settings.required_database_url(), grace_s=self.settings.lease_s
            )
        agents = self.settings.agent_client_ids
        client_id = agents[0] if agents else None
        self._channel = AblyChannel(
            self.settings.required_ably_key(),
            endpoint=self.settings.ably_endpoint,
            port=self.settings.ably_port,
            tls=self.settings.ably_tls,
            client_id=client_id,
            publish_rate=self.settings.publish_rate,
        )
        self._metrics = Metrics()
        self._observe = self._metrics.observe
        self._names = ChannelNames(self._look_for_channel, self.settings.channel_of)
        self._ctx = Context(
            store=self._store,
            channel=self._channel,
            publish_queue=PublishQueue(self._channel),
            now_ms=self._channel.now_ms,
            retention_ms=self.settings.retention_ms,
            agents=frozenset(agents),
            publish_options=PublishOptions(client_id, self.settings.lease_s),
            channel_of=self.channel_of,
            default_channel=self.settings.channel_of,
        )
        self._prefetches: OrderedDict[str, Prefetch] = OrderedDict()
        self._turns = WeakValueDictionary()
        self._following = Subscriptions(
            self._ctx,
            terms=FollowOptions(self.settings.follow_strategy, self.settings.follow_grace_s),
            noticed=self._attend,
            prefetch=self._prefetches.get,
        )
        self._metrics.count_followed(lambda: self._following.counts)
        self._upkeep = Maintenance(
            self._ctx,
            terms=MaintenanceOptions(
                self.settings.lease_s, self.settings.idle_limit_ms, self.settings.retention_ms
            ),
            record=self.catch_up,
            kept=MaintenanceParts(
                lambda: self._following.conversation_ids,
                self._following.changed,
                self._following.read_quiet,
            ),
            by_template=self.settings.conversation_on,
        )
        self._desk, self._jobs = desk_and_jobs(
            self._ctx,
            settings=self.settings,
            record=self.catch_up,
            noticed=self._attend,
            observe=self._observe,
        )

    async def open(self) -> None:
        """Connect to the store, and ask Ably what time it is; it is connected to when first needed.

        Raises:
            StoreUnavailable: Postgres does not answer.
        """
        await self._store.open()
        await self._channel.open()
        self._upkeep.open()
        self._jobs.open()

    async def close(self) -> None:
        """Let go of everything."""
        await self._jobs.close()
        await self._following.close()
        await self._upkeep.close()
        await self._names.close()
        await self._channel.close()
        await self._store.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def channel_of(self, conversation_id: str) -> str:
        """The channel of a conversation: its row's, else by template."""
        check_conversation_id(conversation_id)
        return await self._names.of(conversation_id)

    async def _look_for_channel(self, conversation_id: str) -> str | None:
        row = await self._store.conversation(conversation_id)
        return row and row.channel

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
        received = None
        if before is None:
            received = await self._following.history_source(conversation_id, until)
        known = before is None and received is None
        hydrated = await hydrate(
            self._ctx,
            conversation_id,
            until=until,
            page=Page(limit, before),
            prefetch=self._prefetches.get(conversation_id) if known else None,
            source=received or from_channel,
        )
        if hydrated.read_from_ms is not None:
            prefetch = Prefetch(hydrated.channel, hydrated.read_from_ms)
            _keep(self._prefetches, conversation_id, prefetch, _KNOWN_WATERMARKS)
        if hydrated.counts and hydrated.counts[Outcome.FOLDED.value]:
            self._upkeep.wake(conversation_id)
        return hydrated

    async def message(self, conversation_id: str, message_id: str) -> bytes:
        """One message in its wire form, as JSON.

        Raises:
            NotFound: there is none with that id.
        """
        check_conversation_id(conversation_id)
        wire = await self._store.message(conversation_id, message_id)
        if wire is None:
            raise NotFound(f"the conversation has no message {message_id!r}")
        return wire

    async def conversations(
        self, *, limit: int = 50, before: Cursor | None = None
    ) -> tuple[list[Conversation], Cursor | None]:
        """Conversations, the newest first, and the cursor of the next page."""
        return await self._store.conversations(limit=limit, before=before)

    async def ready(self) -> dict[str, str]:
        """What this stands on: name to "ok", or to what is wrong but can be lived with.

        Raises:
            StoreUnavailable: Postgres does not answer, or its schema is not at head.
        """
        await self.store_ready()
        try:
            await self.channel_ready()
        except ChannelUnavailable as error:
            return {"store": "ok", "channel": str(error)}
        return {"store": "ok", "channel": "ok"}

    async def store_ready(self) -> None:
        """Return if Postgres answers and its schema is at head.

        Raises:
            StoreUnavailable: it does not, or is not.
        """
        await self._store.ready()

    async def channel_ready(self) -> None:
        """Return if Ably answers.

        Raises:
            ChannelUnavailable: it does not.
        """
        await self._channel.ready()

    async def key_operations(self) -> frozenset[str]:
        """What our key may do on a conversation's channel, as Ably says.

        Raises:
            Unauthorized: Ably does not know the key.
        """
        claims = await self._channel.key_capability(self.settings.required_ably_key())
        wanted = frozenset({"publish", "subscribe", "history"})
        return Capability(claims).granted(self.settings.channel_of("a"), wanted)

    async def channel_shows(self, channel: str, said_ms: int) -> bool:
        """Whether history still has anything of the second around *said_ms*."""
        async with aclosing(
            self._channel.history(channel, since_ms=said_ms - 1000, forwards=True)
        ) as pages:
            first: list[ChannelMessage] = await anext(pages, [])
        return any(message.timestamp_ms <= said_ms + 1000 for message in first)

    def router(self, *, authorize: Authorize) -> APIRouter:
        """The HTTP calls, for an application of yours, whose lifespan opens and closes this.

        ``authorize(request, conversation_id)`` says whether the caller may; falsy is 403.
        """
        return router(self, authorize=authorize, metrics=self._metrics)

    def app(self) -> FastAPI:
        """The service as an application of its own.

        Raises:
            NotConfigured: nobody could prove anything to it.
        """
        settings = self.settings
        access = Access(
            ably_keys=settings.reader_keys(),
            service_keys=revealed(settings.service_keys),
            admin_keys=revealed(settings.admin_keys),
            key_capability=self._channel.key_capability,
            admits=self._channel.admits,
        )
        secret = settings.webhook_secret
        return create_app(
            self,
            access,
            cors_origins=settings.cors_origins,
            metrics=self._metrics,
            announcers=WebhookSenders(
                settings.reader_keys(), secret.get_secret_value() if secret else None
            ),
            inspector=self,
            admin=self,
        )


async def migrate(database_url: str) -> None:
    """Bring the schema of the database to head.

    Raises:
        NotConfigured: the URL cannot be read.
        StoreUnavailable: Postgres does not answer.
    """
    with _naming_the_database():
        await migrations.migrate(database_url)


async def schema_revision(database_url: str) -> str | None:
    """The revision of the database's schema; None if it has none.

    Raises:
        StoreUnavailable: Postgres does not answer.
    """
    return await migrations.current(database_url)


@asynccontextmanager
async def embedded_postgres(folder: Path) -> AsyncIterator[str]:
    """The URL of a Postgres server of our own below *folder*, while the block runs.

    Raises:
        StoreUnavailable: it does not start, or does not end; says why and what to do.
    """
    try:
        async with EmbeddedPostgres(folder) as postgres:
            yield postgres.url
    except EmbeddedPostgresError as error:
        raise StoreUnavailable(str(error)) from error


@contextmanager
def _naming_the_database() -> Iterator[None]:
    try:
        yield
    except DatabaseUrlError as error:
        raise NotConfigured(f"REHYDRATE_DATABASE_URL: {error}") from None


def _keep(kept: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)

"""Composition: the only module that connects the use cases to concrete adapters."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.ably.channel_log import AblyChannel
from rehydrate.api.app import create_app
from rehydrate.api.auth.access import Access
from rehydrate.api.telemetry import Metrics
from rehydrate.api.webhooks import WebhookSenders
from rehydrate.background import PeriodicTask
from rehydrate.context import ChannelNames, Context, PublishOptions
from rehydrate.database import named_setting
from rehydrate.follow.feed import FollowOptions
from rehydrate.follow.subscriptions import Subscriptions
from rehydrate.lifespan import Lifespan, Part
from rehydrate.maintenance.inspector import ServiceInspector
from rehydrate.maintenance.tasks import Maintenance, MaintenanceOptions, MaintenanceParts
from rehydrate.postgres.store import PostgresStore
from rehydrate.providers.model_runs import ModelRuns
from rehydrate.publish.publish_queue import PublishQueue
from rehydrate.replay.admin import ReplayAdmin
from rehydrate.replay.validation import Targets
from rehydrate.replay.worker import ReplayOptions, ReplayWorker
from rehydrate.settings import revealed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI

    from rehydrate.api.service import Service
    from rehydrate.ports import Store
    from rehydrate.providers.model_runs import Respond
    from rehydrate.record.catch_up import Recorded
    from rehydrate.settings import Settings


class Adapters(NamedTuple):
    """The adapters of a process, and the context of its use cases."""

    store: PostgresStore
    channel: AblyChannel
    names: ChannelNames
    metrics: Metrics
    context: Context


class Services(NamedTuple):
    """The background tasks and long-lived use cases of a process."""

    subscriptions: Subscriptions
    maintenance: Maintenance
    replay_worker: ReplayWorker
    admin: ReplayAdmin
    inspector: ServiceInspector
    models: ModelRuns


def adapters(settings: Settings) -> Adapters:
    """Return the adapters that *settings* name; nothing connects yet.

    Raises:
        NotConfigured: no database or no Ably key is set, or the database's URL is invalid.
    """
    with named_setting():
        store = PostgresStore(settings.required_database_url(), grace_s=settings.lease_s)
    agents = settings.agent_client_ids
    client_id = agents[0] if agents else None
    channel = AblyChannel(
        settings.required_ably_key(),
        endpoint=settings.ably_endpoint,
        port=settings.ably_port,
        tls=settings.ably_tls,
        client_id=client_id,
        publish_rate=settings.publish_rate,
    )

    async def stored_channel(conversation_id: str) -> str | None:
        row = await store.conversation(conversation_id)
        return row and row.channel

    names = ChannelNames(stored_channel, settings.channel_of)
    context = Context(
        store=store,
        channel=channel,
        publish_queue=PublishQueue(channel),
        now_ms=channel.clock.now_ms,
        retention_ms=settings.retention_ms,
        agents=frozenset(agents),
        publish_options=PublishOptions(client_id, settings.lease_s),
        channel_of=names.of,
        default_channel=settings.channel_of,
        token_names=frozenset(settings.token_names),
    )
    return Adapters(store, channel, names, Metrics(), context)


def services(
    settings: Settings,
    made: Adapters,
    *,
    record: Callable[[str], Awaitable[Recorded]],
    respond: Respond,
) -> Services:
    """Return the services over the adapters *made*; nothing runs yet.

    Args:
        settings: the settings.
        made: the adapters.
        record: records a conversation's channel in the store.
        respond: publishes a response.
    """
    ctx, metrics, client_id = made.context, made.metrics, made.context.publish_options.client_id

    def attend(conversation_id: str) -> None:
        maintenance.attend(conversation_id)

    subscriptions = Subscriptions(
        ctx,
        terms=FollowOptions(settings.follow_strategy, settings.follow_grace_s),
        noticed=attend,
    )
    metrics.count_followed(lambda: subscriptions.counts)
    maintenance = Maintenance(
        ctx,
        terms=MaintenanceOptions(settings.lease_s, settings.idle_limit_ms, settings.retention_ms),
        record=record,
        kept=MaintenanceParts(
            lambda: subscriptions.conversation_ids, subscriptions.changed, subscriptions.read_quiet
        ),
        by_template=settings.conversation_on,
    )
    metrics.count_dropped(lambda: maintenance.dropped)
    worker = ReplayWorker(
        ctx,
        rules=ReplayOptions(settings.replays_at_once, settings.replays_per_channel, client_id),
        noticed=attend,
        ended=lambda state: metrics.observe("replay", state, 1),
    )
    targets = Targets(settings.replay_channels, settings.publish_rate)
    return Services(
        subscriptions,
        maintenance,
        worker,
        ReplayAdmin(ctx, worker, targets=targets, record=record),
        ServiceInspector(ctx, subscriptions, maintenance),
        ModelRuns(
            respond=respond, newest=partial(_newest_first, ctx.store), cancels=subscriptions.cancels
        ),
    )


async def _newest_first(store: Store, conversation_id: str, limit: int) -> list[dict[str, Any]]:
    """Return up to *limit* finished messages of a conversation."""
    stored = await store.load(conversation_id, limit=limit, before=None)
    return [json.loads(row.wire) for row in reversed(stored.finished)]


def tasks(made: Adapters, running: Services) -> list[PeriodicTask]:
    """Return the background tasks of a process that have turns; its metrics show them."""
    found = [*running.maintenance.tasks, running.replay_worker.task, made.channel.clock.task]
    made.metrics.watch_tasks(found)
    return found


def lifespan(made: Adapters, running: Services) -> Lifespan:
    """Return what opens and closes the adapters and services of a process."""
    return Lifespan(
        [
            Part(made.store.open, made.store.close),
            Part(made.channel.open, made.channel.close),
            Part(lambda: None, made.names.close),
            Part(running.maintenance.open, running.maintenance.close),
            Part(lambda: None, running.subscriptions.close),
            Part(running.replay_worker.open, running.replay_worker.close),
        ]
    )


def application(settings: Settings, service: Service, made: Adapters, running: Services) -> FastAPI:
    """Return the HTTP application over *service*.

    Raises:
        NotConfigured: no key is set that a token could be checked with.
    """
    access = Access(
        ably_keys=settings.reader_keys(),
        service_keys=revealed(settings.service_keys),
        admin_keys=revealed(settings.admin_keys),
        key_capability=made.channel.key_capability,
        kept=made.store,
        admits=made.channel.admits,
    )
    secret = settings.webhook_secret
    return create_app(
        service,
        access,
        cors_origins=settings.cors_origins,
        cors_headers=settings.cors_headers,
        metrics=made.metrics,
        announcers=WebhookSenders(
            settings.reader_keys(), secret.get_secret_value() if secret else None
        ),
        inspector=running.inspector,
        admin=running.admin,
    )

"""A context for benchmarks that call a use case directly."""

from __future__ import annotations

from rehydrate.context import Context, PublishOptions


def context(store, channel, now_ms, *, retention_ms=120_000, options=PublishOptions()):  # noqa: B008 - frozen
    """Return a context over *store* and *channel*, whose channels are named ``ai:<id>``."""

    async def channel_of(conversation_id):
        return f"ai:{conversation_id}"

    return Context(
        store=store,
        channel=channel,
        publish_queue=None,
        now_ms=now_ms,
        retention_ms=retention_ms,
        agents=frozenset(),
        publish_options=options,
        channel_of=channel_of,
        default_channel=lambda conversation_id: f"ai:{conversation_id}",
    )

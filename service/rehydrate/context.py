"""Context: the adapters and limits that every use case receives in addition to its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rehydrate.ports import ChannelLog, Publisher, Store


class PublishOptions(NamedTuple):
    """How responses are published.

    Attributes:
        client_id: the clientId that messages are published with; None: the connection's own.
        lease_s: a publisher that has not renewed its lease for this long, in seconds, is treated
            as dead.
    """

    client_id: str | None = None
    lease_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Context:
    """The adapters and limits of one process, built once and passed to every use case.

    Nothing in it depends on a request, so one instance serves all of them. A test that needs
    another clock, or a store with a fault in it, makes a copy by `dataclasses.replace`.

    Attributes:
        store: where conversations, leases and replays are stored.
        channel: the channel service: history, live messages, publishing.
        publish_queue: the queue that all publishing goes through, in order per channel.
        now_ms: the clock, in ms since 1970.
        retention_ms: how long the channel keeps history, in ms.
        agents: the clientIds that may publish responses; empty: any.
        publish_options: how responses are published.
        channel_of: return the name of a conversation's channel: its row's, else
            `default_channel`. May query the store.
        default_channel: return the channel name that the template gives a conversation without
            a row. A use case that reads the row anyway falls back on this one.
    """

    store: Store
    channel: ChannelLog
    publish_queue: Publisher
    now_ms: Callable[[], int]
    retention_ms: int
    agents: frozenset[str]
    publish_options: PublishOptions
    channel_of: Callable[[str], Awaitable[str]]
    default_channel: Callable[[str], str]

"""The ports: the protocols that the use cases require of a channel and of a store."""

from __future__ import annotations

from rehydrate.ports.channel import (
    Authority,
    BacklogEnd,
    Batch,
    ChannelLog,
    Delivered,
    Discontinuity,
    Outgoing,
    PublishTransport,
    Subscription,
)
from rehydrate.ports.claims import KeptCapabilities, PromptClaims
from rehydrate.ports.inspections import Backlog, Inspections, LeaseSeen, Listed
from rehydrate.ports.publishing import ChannelPublisher, EventProducer, Publisher
from rehydrate.ports.replays import ReplayQueue, ReplayStore
from rehydrate.ports.store import (
    Conversation,
    Conversations,
    Due,
    Finished,
    Lease,
    LockedConversation,
    LockedLeases,
    MaintenanceStore,
    Store,
    Stored,
)

__all__ = [
    "Authority",
    "Backlog",
    "BacklogEnd",
    "Batch",
    "ChannelLog",
    "ChannelPublisher",
    "Conversation",
    "Conversations",
    "Delivered",
    "Discontinuity",
    "Due",
    "EventProducer",
    "Finished",
    "Inspections",
    "KeptCapabilities",
    "Lease",
    "LeaseSeen",
    "Listed",
    "LockedConversation",
    "LockedLeases",
    "MaintenanceStore",
    "Outgoing",
    "PromptClaims",
    "PublishTransport",
    "Publisher",
    "ReplayQueue",
    "ReplayStore",
    "Store",
    "Stored",
    "Subscription",
]

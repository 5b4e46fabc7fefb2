"""The ports: what the acts need of a channel and of a store. Rooms fulfil them structurally."""

from __future__ import annotations

from rehydrate.ports.channel import ChannelLog, Discontinuity, Outgoing, Subscription
from rehydrate.ports.claims import PromptClaims
from rehydrate.ports.inspections import Backlog, Inspections, LeaseSeen, Listed
from rehydrate.ports.publishing import ChannelPublisher, EventSource, Publisher
from rehydrate.ports.replays import ReplayStore
from rehydrate.ports.store import (
    Conversation,
    Due,
    Finished,
    Lease,
    LockedConversation,
    ResponseStore,
    Store,
    Stored,
)

__all__ = [
    "Backlog",
    "ChannelLog",
    "ChannelPublisher",
    "Conversation",
    "Discontinuity",
    "Due",
    "EventSource",
    "Finished",
    "Inspections",
    "Lease",
    "LeaseSeen",
    "Listed",
    "LockedConversation",
    "Outgoing",
    "PromptClaims",
    "Publisher",
    "ReplayStore",
    "ResponseStore",
    "Store",
    "Stored",
    "Subscription",
]

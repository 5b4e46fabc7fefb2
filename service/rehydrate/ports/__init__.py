"""The ports: what the acts need of a channel and of a store. Rooms fulfil them structurally."""

from __future__ import annotations

from rehydrate.ports.channel import ChannelLog, Discontinuity, Outgoing, Subscription
from rehydrate.ports.claims import Claims
from rehydrate.ports.inspections import Backlog, Inspections, LeaseSeen, Listed
from rehydrate.ports.replays import Replays
from rehydrate.ports.store import Conversation, Due, Finished, Held, Lease, ResponseStore, Stored

__all__ = [
    "Backlog",
    "ChannelLog",
    "Claims",
    "Conversation",
    "Discontinuity",
    "Due",
    "Finished",
    "Held",
    "Inspections",
    "Lease",
    "LeaseSeen",
    "Listed",
    "Outgoing",
    "Replays",
    "ResponseStore",
    "Stored",
    "Subscription",
]

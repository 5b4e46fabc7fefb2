"""A channel: its log, who is attached, and the fan-out to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .config import Namespace
from .frames import Action, Flag
from .log import ChannelLog
from .messages import Delivery, Message
from .serials import channel_serial_of


class Subscriber(Protocol):
    """What a channel needs of a connection."""

    connection_id: str
    echo: bool

    def deliver(self, delivery: Delivery, channel: str) -> None:
        """Send *delivery* to a client that knows the channel as *channel*."""


@dataclass(slots=True)
class Attachment:
    """A connection on a channel.

    Attributes:
        subscriber: the connection.
        wire_name: the channel's name as that client writes it.
        modes: what was granted.
        params: the params that are in force.
        seen: serials of the mutable messages of which this attachment has had the full text; None
            on a channel whose messages do not change.
    """

    subscriber: Subscriber
    wire_name: str
    modes: Flag
    params: dict[str, str]
    seen: set[str] | None = None
    serial: str = field(default="")

    @property
    def wants_messages(self) -> bool:
        """Whether SUBSCRIBE was granted."""
        return Flag.SUBSCRIBE in self.modes


class Channel:
    """One channel of one app.

    Args:
        name: its own name, without qualifier.
        log: its messages.
        namespace: its rules; None for the ordinary ones.
        on_kept: told of each message that is kept, new or in a new version; for persistence.
    """

    def __init__(
        self,
        name: str,
        log: ChannelLog,
        namespace: Namespace | None,
        on_kept: Callable[[Channel, Message], None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.mutable = namespace is not None and namespace.mutable
        self.on_kept = on_kept
        self.attachments: dict[tuple[str, str], Attachment] = {}
        self.published = 0

    def attach(self, attachment: Attachment) -> None:
        """Add an attachment, or put it in the place of the one it renews."""
        key = (attachment.subscriber.connection_id, attachment.wire_name)
        self.attachments[key] = attachment

    def detach(self, connection_id: str, wire_name: str) -> None:
        """Remove an attachment; without it, nothing happens."""
        self.attachments.pop((connection_id, wire_name), None)

    def delivery(self, serial: str, messages: list[Message]) -> Delivery:
        """Return *messages*, which share the channelSerial *serial*, as one ProtocolMessage."""
        first = messages[0].fields
        head: dict[str, Any] = {
            "action": int(Action.MESSAGE),
            "id": first["id"].rpartition(":")[0] or first["id"],
            "timestamp": first["timestamp"],
            "channelSerial": serial,
        }
        if "connectionId" in first:
            head["connectionId"] = first["connectionId"]
        return Delivery(head, messages)

    def fan_out(self, delivery: Delivery, origin_id: str | None) -> None:
        """Send *delivery* to every attachment that wants messages, and echo where wanted (RTL7f)."""
        for attachment in tuple(self.attachments.values()):
            subscriber = attachment.subscriber
            if not attachment.wants_messages:
                continue
            if origin_id == subscriber.connection_id and not subscriber.echo:
                continue
            if attachment.seen is not None:
                attachment.seen.update(message.serial for message in delivery.messages)
            subscriber.deliver(delivery, attachment.wire_name)

    def replay(self, attachment: Attachment, groups: Iterable[list[Message]]) -> None:
        """Send a backlog to one attachment, each message in its latest form."""
        if not attachment.wants_messages:
            return
        for group in groups:
            if attachment.seen is not None:
                attachment.seen.update(message.serial for message in group)
            position = channel_serial_of(group[0].version_serial)
            attachment.subscriber.deliver(self.delivery(position, group), attachment.wire_name)

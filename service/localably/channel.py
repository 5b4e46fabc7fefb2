"""A channel: its log, attachments and members, and the fan-out to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from .config import Namespace
from .deltas import DeltaStream
from .errors import RefusedError
from .filters import MessageFilter
from .frames import Action, Flag
from .log import MessageLog
from .messages import Delivery, Message, size_bytes
from .presence import Members
from .rollup import Rollup, Schedule

_SEEN_AT_LEAST: Final = 1000


class Subscriber(Protocol):
    """What a channel needs of a connection."""

    connection_id: str
    echo: bool

    def deliver(self, delivery: Delivery, channel: str) -> None:
        """Send *delivery* to a client that knows the channel as *channel*."""

    def tell_loss(self, attachment: Attachment, position: str, error: RefusedError) -> None:
        """Tell that messages up to *position* were not delivered (RTL12)."""


@dataclass(slots=True)
class Attachment:
    """A connection on a channel.

    Attributes:
        subscriber: the connection.
        wire_name: the channel's name as that client writes it.
        modes: the granted modes.
        wished: the requested modes; a token with wider permissions may grant more later.
        params: the params that are in force.
        seen: serials of the mutable messages of which this attachment has had the full text; None
            on a channel whose messages do not change.
        in_gap: whether the newest message was not delivered, which was reported.
        filter: selects the messages that are delivered; None for all.
        deltas: encodes messages as deltas (channel param `delta`); None sends them whole.
    """

    subscriber: Subscriber
    wire_name: str
    modes: Flag
    wished: Flag
    params: dict[str, str]
    seen: set[str] | None = None
    in_gap: bool = False
    filter: MessageFilter | None = None
    deltas: DeltaStream | None = None

    def deliver(self, delivery: Delivery) -> None:
        """Send the messages that the filter selects, as deltas if the client asked for them."""
        selected = delivery if self.filter is None else self.filter.selected(delivery)
        if selected is not None and self.deltas is not None:
            selected = self.deltas.encoded(selected)
        if selected is not None:
            self.subscriber.deliver(selected, self.wire_name)

    def miss(self) -> None:
        """Record that messages were not delivered, so the next one cannot be a delta to them."""
        if self.deltas is not None:
            self.deltas.restart()

    @property
    def echoes(self) -> bool:
        """Whether the connection gets its own messages back (RTL7f, channel param `echo`)."""
        return self.subscriber.echo and self.params.get("echo") != "false"


Gate = Callable[["Channel", Attachment], bool]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a channel asks of the server around it.

    Attributes:
        on_kept: called with each stored message, new or in a new version.
        on_presence: called with each presence message.
        on_named: called with each id that a publisher gave, its serial and time in milliseconds.
        lags: returns whether history is delayed, so that former states are needed.
        gate: returns None, or a predicate that decides on a delivery to an attachment.
        is_whole: returns whether an append is delivered as a full update, also in mid-stream.
        now_ms: the clock, in milliseconds since 1970.
        schedule: calls back after so many seconds.
    """

    on_kept: Callable[[Channel, Message], None]
    on_presence: Callable[[Channel, Message], None]
    on_named: Callable[[Channel, str, str, int], None]
    lags: Callable[[], bool]
    gate: Callable[[], Gate | None]
    is_whole: Callable[[Channel], bool]
    now_ms: Callable[[], int]
    schedule: Schedule


class Channel:
    """One channel of one app.

    Args:
        app_id: the app.
        name: the channel's own name, without qualifier.
        log: its messages.
        namespace: its rules; None for the ordinary ones.
        around: the server.
        presence_log: its presence messages, kept for the same time.
    """

    def __init__(
        self,
        app_id: str,
        name: str,
        log: MessageLog,
        namespace: Namespace | None,
        around: Surroundings,
        *,
        presence_log: MessageLog,
    ) -> None:
        self.app_id = app_id
        self.name = name
        self.log = log
        self.presence_log = presence_log
        self.mutable = namespace is not None and namespace.mutable
        self.persisted = namespace is not None and (namespace.persisted or namespace.mutable)
        self.attachments: dict[tuple[str, str], Attachment] = {}
        self.members = Members()
        self.rollup = Rollup(around.schedule, self._fan_out_append)
        self.published = 0
        self.idle_since_ms: int | None = None
        self._around = around

    def attach(self, attachment: Attachment) -> None:
        """Add an attachment, or put it in the place of the one it renews."""
        key = (attachment.subscriber.connection_id, attachment.wire_name)
        self.attachments[key] = attachment

    def detach(self, connection_id: str, wire_name: str) -> None:
        """Remove an attachment; without it, nothing happens."""
        self.attachments.pop((connection_id, wire_name), None)

    def prune(self, now_ms: int) -> None:
        """Drop messages older than the retention, also from the state of attachments."""
        self.log.prune(now_ms)
        self.presence_log.prune(now_ms)
        if not self.mutable:
            return
        for attachment in self.attachments.values():
            seen = attachment.seen
            if seen is not None and len(seen) > 2 * len(self.log) + _SEEN_AT_LEAST:
                attachment.seen = {serial for serial in seen if serial in self.log}

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it."""
        kept = len(self.log) + len(self.presence_log) + len(self.members)
        return not (self.attachments or kept)

    def remember(self, own_id: str | None, serial: str, now_ms: int) -> None:
        """Remember the id that a publisher gave a message or a version, so that it is done once."""
        if own_id is not None:
            self.log.remember(own_id, serial, now_ms)
            self._around.on_named(self, own_id, serial, now_ms)

    def keep(self, message: Message, size: int) -> None:
        """Keep a new message."""
        self.log.add(message, size)
        self._around.on_kept(self, message)

    def keep_version(self, message: Message, size: int) -> None:
        """Keep a newer version of a message; of a row of appends only the last is a version."""
        before = self.log.find(message.serial)
        separate = before is None or not (before.appended and message.appended)
        if before is not None and not separate and self._around.lags():
            self.log.keep_state(before)
        self.log.replace(message, size, keep_version=separate)
        self._around.on_kept(self, message)

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
        gate = self._around.gate()
        for attachment in tuple(self.attachments.values()):
            subscriber = attachment.subscriber
            if Flag.SUBSCRIBE not in attachment.modes:
                continue
            if origin_id == subscriber.connection_id and not attachment.echoes:
                continue
            if attachment.seen is not None:
                attachment.seen.update(message.serial for message in delivery.messages)
            if gate is None:
                attachment.in_gap = False
            if gate is None or gate(self, attachment):
                attachment.deliver(delivery)
            else:
                attachment.miss()

    def announce(self, fields: dict[str, Any], now_ms: int) -> None:
        """Take a presence message in and send it to all who want presence (RTP8)."""
        self.members.apply(fields)
        position = self.log.next_serial(now_ms)
        head = {
            "action": int(Action.PRESENCE),
            "id": fields["id"].rpartition(":")[0],
            "timestamp": fields["timestamp"],
            "channelSerial": position,
        }
        own_serial = f"{position}:000"
        version = {"serial": own_serial, "timestamp": fields["timestamp"]}
        # clients read no serial of a presence message; it is the position in this log
        kept = Message({**fields, "serial": own_serial, "version": version}, bare=True)
        self.presence_log.add(kept, size_bytes(fields))
        self._around.on_presence(self, kept)
        if "connectionId" in fields:
            head["connectionId"] = fields["connectionId"]
        delivery = Delivery(head, [Message(fields)], "presence")
        for attachment in tuple(self.attachments.values()):
            if Flag.PRESENCE_SUBSCRIBE in attachment.modes:
                attachment.subscriber.deliver(delivery, attachment.wire_name)

    def replay(self, attachment: Attachment, groups: Iterable[tuple[str, list[Message]]]) -> None:
        """Send a backlog to one attachment, each message in its latest form."""
        if Flag.SUBSCRIBE not in attachment.modes:
            return
        for position, group in groups:
            if attachment.seen is not None:
                attachment.seen.update(message.serial for message in group)
            attachment.deliver(self.delivery(position, group))

    def _fan_out_append(self, delta: Message, full: Message, origin_id: str | None) -> None:
        """Send an append: the delta to those who have had the message, to others all of it."""
        # a message may have overtaken an append that was held: the append comes after it
        position = self.log.place_at_end(full.serial, self._around.now_ms())
        small = self.delivery(position, [delta])
        large = self.delivery(position, [full])
        gate, is_whole = self._around.gate(), self._around.is_whole(self)
        for attachment in tuple(self.attachments.values()):
            subscriber, seen = attachment.subscriber, attachment.seen
            if Flag.SUBSCRIBE not in attachment.modes:
                continue
            if origin_id == subscriber.connection_id and not attachment.echoes:
                continue
            is_known = seen is not None and full.serial in seen
            if seen is not None:
                seen.add(full.serial)
            if gate is None or gate(self, attachment):
                whole = is_whole or not is_known or attachment.params.get("appendMode") == "full"
                attachment.deliver(large if whole else small)
            else:
                attachment.miss()

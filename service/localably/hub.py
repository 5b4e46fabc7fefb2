"""Everything that lives in one server: its apps' channels and its connections. No socket, no loop."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from . import sessions
from .auth import Authenticator, Identity
from .channel import Attachment, Channel, Gate, Surroundings
from .config import App, Key, LocalAblySettings
from .connection import ClientConnection
from .errors import RefusedError
from .faults import Faults, error_of
from .frames import Action
from .limits import Rate
from .log import MessageLog, MissedMessages
from .messages import Message
from .rollup import Schedule
from .serials import SerialClock

_RESUME_LIMIT: Final = 10_000


class ChannelStorage(Protocol):
    """Where persisted channels are kept."""

    def keep(self, channel: Channel, message: Message) -> None:
        """Take note of a new message, or of a newer version of one."""

    def keep_presence(self, channel: Channel, message: Message) -> None:
        """Record a presence message."""

    def name(self, channel: Channel, own_id: str, serial: str, now_ms: int) -> None:
        """Take note of the id that a publisher gave to what has *serial*."""

    def load(self, channel: Channel, now_ms: int) -> None:
        """Load the stored messages of a channel, and the ids of publishers, into its log."""

    def drop(self, app_id: str, name: str | None = None, floor: str | None = None) -> None:
        """Forget a channel, or all channels of an app; they are complete from *floor* on."""


class Hub:
    """The channels and connections of one server.

    Attributes:
        listeners: called with each stored message, new or in a new version.
        faults: the switches.
        store: keeps persisted channels; None keeps them in memory only.

    Args:
        apps: the apps by id.
        settings: times and limits.
        now_ms: the clock, in milliseconds since 1970.
        schedule: calls back after so many seconds.
    """

    def __init__(
        self,
        apps: dict[str, App],
        settings: LocalAblySettings,
        now_ms: Callable[[], int],
        schedule: Schedule,
    ) -> None:
        self.apps = apps
        self.settings = settings
        self.now_ms = now_ms
        self.authenticator = Authenticator(apps, now_ms)
        self.faults = Faults()
        self.connections: dict[str, ClientConnection] = {}
        self.listeners: list[Callable[[Channel, Message], None]] = []
        self.store: ChannelStorage | None = None
        self._channels: dict[tuple[str, str], Channel] = {}
        self._rates: dict[tuple[str, str], Rate] = {}
        self.schedule = schedule
        self._around = Surroundings(
            self._kept,
            self._presence_kept,
            self._named,
            self._lags,
            self._gate,
            self._is_whole,
            now_ms,
            schedule,
        )
        self._began_ms = now_ms()

    def channel(self, app: App, name: str) -> Channel:
        """Return a channel, made when it is first asked for."""
        found = self._channels.get((app.app_id, name))
        return found if found is not None else self._make_channel(app, name)

    def existing_channel(self, app: App, name: str) -> Channel | None:
        """Return a channel if there is one already, or if something was kept of it."""
        found = self._channels.get((app.app_id, name))
        if found is None and self._namespace_persists(app, name):
            return self._make_channel(app, name)
        return found

    def channels(self, app_id: str | None = None) -> list[Channel]:
        """Return the channels of one app, or of all."""
        return [
            channel
            for channel in self._channels.values()
            if app_id is None or channel.app_id == app_id
        ]

    def drop_app(self, app_id: str) -> None:
        """Forget an app with its channels, and end its connections."""
        self.apps.pop(app_id, None)
        for connection in list(self.connections.values()):
            if connection.identity.app.app_id == app_id:
                connection.fail(RefusedError(40400, "the app was deleted"))
        for channel in self.channels(app_id):
            del self._channels[app_id, channel.name]
        if self.store is not None:
            self.store.drop(app_id)

    def connect(
        self, identity: Identity, query: Mapping[str, str], wake: Callable[[], None]
    ) -> ClientConnection:
        """Open a connection, or resume one, and queue its CONNECTED.

        Raises:
            RefusedError: as `sessions.connect`.
        """
        return sessions.connect(self, identity, query, wake)

    def welcome(self, connection: ClientConnection, error: RefusedError | None = None) -> None:
        """Queue the CONNECTED of a connection; *error* explains why the old one was not resumed."""
        message: dict[str, Any] = {
            "action": int(Action.CONNECTED),
            "connectionId": connection.connection_id,
            "connectionDetails": sessions.details(connection),
        }
        if error is not None:
            message["error"] = error.as_wire()
        connection.send(message)

    def forget(self, connection: ClientConnection) -> None:
        """Release a connection permanently."""
        connection.end()
        self.connections.pop(connection.connection_id, None)

    def continue_from(self, channel: Channel, serial: str) -> MissedMessages:
        """Return what came after the position of a client that attaches again (RTL4c1)."""
        refused = self.faults.now("refuse_continuity", channel.name)
        if refused is None:
            return channel.log.after(serial, _RESUME_LIMIT, self.continuity_since_ms)
        error = error_of(refused, 90003)
        if error.code == _OTHER_REGION:
            return MissedMessages([], channel.log.head, error)
        cap = self.settings.rewind_limit if error.code == _LIMIT_EXCEEDED else _RESUME_LIMIT
        held = channel.log.newest(None, self.continuity_since_ms, cap)
        return MissedMessages(held.groups, held.position, error)

    @property
    def continuity_since_ms(self) -> int:
        """The beginning of the window, of about two minutes, in which channels can be continued.

        Persistence keeps history for longer, but neither RESUMED nor history up to an attach point.
        """
        return self.now_ms() - int(self.settings.connection_state_ttl_s * 1000)

    def check_room(self, connection: ClientConnection) -> None:
        """Refuse one attachment more than a connection may have.

        Raises:
            RefusedError: 90021.
        """
        most = self.settings.channels_per_connection
        if self.is_limited:
            most = min(most, _CHANNELS_WHERE_LIMITED)
        if connection.attachments >= most:
            self.faults.count("enforce_limits")
            raise RefusedError(90021, f"a connection may attach to at most {most} channels", 400)

    def check_rates(
        self, app_id: str, channel: str, connection: ClientConnection | None = None
    ) -> None:
        """Refuse a publish above the documented rates, where these are enforced.

        A channel has one rate for all its publishes, over REST and connections together.

        Raises:
            RefusedError: 42911 of the connection, 42913 of the channel.
        """
        if not self.is_limited:
            return
        now_ms = self.now_ms()
        if connection is not None and not connection.inbound_rate.takes(now_ms):
            self.faults.count("enforce_limits")
            raise RefusedError(42911, "the connection's rate of publishes is exceeded")
        rate = self._rates.setdefault((app_id, channel), Rate(self.settings.channel_rate_per_s))
        if not rate.takes(now_ms):
            self.faults.count("enforce_limits")
            raise RefusedError(42913, "the channel's rate of publishes is exceeded")

    @property
    def is_limited(self) -> bool:
        """Whether the documented rates are enforced."""
        return self.settings.enforce_limits or self.faults.is_on("enforce_limits")

    def retention_ms_of(self, app_id: str, name: str) -> int:
        """Return how long a channel keeps history, in milliseconds."""
        app = self.apps.get(app_id)
        namespace = app.namespaces.get(name.partition(":")[0]) if app is not None else None
        return self.settings.retention_ms(namespace)

    def expire(self, channel_name: str | None = None) -> int:
        """Forget history now, of one channel or of all; return of how many channels."""
        if channel_name is not None:
            for app in self.apps.values():
                self.existing_channel(app, channel_name)
        elif self.store is not None:
            floor = SerialClock("expired").next(self.now_ms())
            for app_id in self.apps:
                self.store.drop(app_id, floor=floor)
        concerned = [one for one in self.channels() if channel_name in (None, one.name)]
        for channel in concerned:
            channel.log.clear()
            channel.presence_log.clear()
            if self.store is not None:
                self.store.drop(channel.app_id, channel.name, channel.log.floor)
        return len(concerned)

    def restart(self) -> None:
        """Drop everything that does not survive a restart: all that was not persisted."""
        for connection in list(self.connections.values()):
            connection.closing = True
            connection.outgoing = []
            connection.wake()
        self.connections.clear()
        self._channels.clear()
        self._rates.clear()
        self._began_ms = self.now_ms()

    def tick(self) -> None:
        """Do what falls due: retention, lost connections, expired tokens. Once a second or so."""
        now_ms = self.now_ms()
        ttl_ms = int(self.settings.connection_state_ttl_s * 1000)
        for key, channel in list(self._channels.items()):
            channel.prune(now_ms)
            if not channel.is_idle:
                channel.idle_since_ms = None
            elif channel.idle_since_ms is None:
                channel.idle_since_ms = now_ms
            elif now_ms - channel.idle_since_ms > ttl_ms:
                # until then a lost connection may come back and continue it
                del self._channels[key]
        if len(self._rates) > _MOST_RATES:
            self._rates.clear()
        for connection in list(self.connections.values()):
            if connection.lost_ms is not None:
                if now_ms - connection.lost_ms > ttl_ms:
                    self.forget(connection)
                elif now_ms - connection.lost_ms > connection.presence_ms:
                    connection.leave_presence()
            elif not connection.closing:
                self._check_token(connection, now_ms)

    def revoke_tokens(self, key: Key, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Revoke tokens of *key*; connections that may renew theirs first are asked to (RTN22).

        Raises:
            RefusedError: as `Revocations.revoke`.
        """
        revocations, now_ms = self.authenticator.revocations, self.now_ms()
        results = revocations.revoke(key, request)
        for connection in list(self.connections.values()):
            revocation = revocations.of(connection.identity)
            if revocation is not None and revocation.applies_at_ms > now_ms:
                connection.send({"action": int(Action.AUTH)})
        return results

    def beat(self) -> None:
        """Send a HEARTBEAT to every connection that is quiet for a third of its interval (RTN23)."""
        now_ms = self.now_ms()
        for connection in list(self.connections.values()):
            if connection.lost_ms is not None:
                continue
            if not connection.quiet:
                connection.quiet, connection.quiet_since_ms = True, now_ms
            elif now_ms - connection.quiet_since_ms >= connection.idle_ms / 3:
                connection.send({"action": int(Action.HEARTBEAT)})

    def _check_token(self, connection: ClientConnection, now_ms: int) -> None:
        """Ask for a new token before the old one expires; disconnect if it has, or is revoked."""
        expires_ms = connection.identity.expires_ms
        if expires_ms is None:
            return
        try:
            self.authenticator.revocations.check(connection.identity)
        except RefusedError as error:
            connection.disconnect(error)
            return
        if expires_ms <= now_ms:
            connection.disconnect(RefusedError(40142, "the token has expired"))
        elif connection.renew_at_ms is not None and connection.renew_at_ms <= now_ms:
            connection.renew_at_ms = None
            connection.send({"action": int(Action.AUTH)})

    def _make_channel(self, app: App, name: str) -> Channel:
        now_ms = self.now_ms()
        namespace = app.namespaces.get(name.partition(":")[0])
        retention_ms = self.settings.retention_ms(namespace)
        # messages of an earlier log of this name have expired, so it starts where that ended
        begin_ms = max(self._began_ms, now_ms - retention_ms)
        clock = SerialClock(secrets.token_hex(6), begin_ms)
        log = MessageLog(clock, retention_ms, begin_ms, self.settings.channel_memory_bytes)
        presence_log = MessageLog(clock, retention_ms, begin_ms, _MOST_PRESENCE_BYTES)
        channel = Channel(app.app_id, name, log, namespace, self._around, presence_log=presence_log)
        if channel.persisted and self.store is not None:
            self.store.load(channel, now_ms)
        self._channels[app.app_id, name] = channel
        return channel

    def _namespace_persists(self, app: App, name: str) -> bool:
        namespace = app.namespaces.get(name.partition(":")[0])
        return namespace is not None and (namespace.persisted or namespace.mutable)

    def _kept(self, channel: Channel, message: Message) -> None:
        if self.store is not None:
            self.store.keep(channel, message)
        for listener in self.listeners:
            listener(channel, message)

    def _presence_kept(self, channel: Channel, message: Message) -> None:
        if self.store is not None:
            self.store.keep_presence(channel, message)

    def _named(self, channel: Channel, own_id: str, serial: str, now_ms: int) -> None:
        if self.store is not None:
            self.store.name(channel, own_id, serial, now_ms)

    def _is_whole(self, channel: Channel) -> bool:
        return self.faults.now("full_updates", channel.name) is not None

    def _lags(self) -> bool:
        return self.faults.is_on("delay_history")

    def _gate(self) -> Gate | None:
        if not self.faults.is_on("drop_deliveries") and not self.is_limited:
            return None
        return self._lets_through

    def _lets_through(self, channel: Channel, attachment: Attachment) -> bool:
        """Return whether to deliver; a gap is reported once (80020), unless it is silent."""
        fault = self.faults.now("drop_deliveries", channel.name)
        if fault is not None:
            if not fault.get("silent"):
                _report_gap(channel, attachment, error_of(fault, 80020))
            return False
        connection = self.connections.get(attachment.subscriber.connection_id)
        if not self.is_limited or connection is None:
            attachment.in_gap = False
            return True
        if connection.outbound_rate.takes(self.now_ms()):
            attachment.in_gap = False
            return True
        self.faults.count("enforce_limits")
        error = RefusedError(80020, "continuity lost: the connection's outbound rate is exceeded")
        _report_gap(channel, attachment, error)
        return False


_CHANNELS_WHERE_LIMITED: Final = 200
_OTHER_REGION: Final = 90005
_LIMIT_EXCEEDED: Final = 90004
_MOST_RATES: Final = 10_000
_MOST_PRESENCE_BYTES: Final = 1 << 24


def _report_gap(channel: Channel, attachment: Attachment, error: RefusedError) -> None:
    if not attachment.in_gap:
        attachment.in_gap = True
        attachment.subscriber.tell_loss(attachment, channel.log.head, error)

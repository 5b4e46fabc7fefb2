"""Everything that lives in one server: its apps' channels and its connections. No socket, no loop."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from .auth import Authenticator, Identity
from .channel import Channel
from .config import App, Settings
from .connection import Connection
from .errors import RefusedError
from .frames import Action, Format
from .log import Backlog, ChannelLog
from .serials import SerialClock

_CONNECTION_KEY: Final = re.compile(r"\A([0-9A-Za-z_-]{4,64})!([0-9A-Za-z_-]{4,64})\Z")
_RESUME_LIMIT: Final = 10_000


class Hub:
    """The channels and connections of one server.

    Args:
        apps: the apps by id.
        settings: times and limits.
        now_ms: the clock, in milliseconds since 1970.
    """

    def __init__(self, apps: dict[str, App], settings: Settings, now_ms: Callable[[], int]) -> None:
        self.apps = apps
        self.settings = settings
        self.now_ms = now_ms
        self.authenticator = Authenticator(apps, now_ms)
        self.connections: dict[str, Connection] = {}
        self._channels: dict[tuple[str, str], Channel] = {}
        self._began_ms = now_ms()

    def channel(self, app: App, name: str) -> Channel:
        """Return a channel, made when it is first asked for."""
        found = self._channels.get((app.app_id, name))
        return found if found is not None else self._make_channel(app, name)

    def existing_channel(self, app: App, name: str) -> Channel | None:
        """Return a channel if there is one already."""
        return self._channels.get((app.app_id, name))

    def channels(self, app_id: str | None = None) -> Iterable[Channel]:
        """Return the channels of one app, or of all."""
        return [
            channel
            for (owner, _), channel in self._channels.items()
            if app_id is None or owner == app_id
        ]

    def drop_app(self, app_id: str) -> None:
        """Forget an app with its channels, and end its connections."""
        self.apps.pop(app_id, None)
        for connection in list(self.connections.values()):
            if connection.identity.app.app_id == app_id:
                connection.fail(RefusedError(40400, "the app was deleted"))
        for key in [key for key in self._channels if key[0] == app_id]:
            del self._channels[key]

    def connect(
        self, identity: Identity, query: Mapping[str, str], wake: Callable[[], None]
    ) -> Connection:
        """Open a connection, or resume one, and queue its CONNECTED (RTN15c, RTN16).

        Raises:
            RefusedError: 40012, 40102, the clientId is not the identity's.
        """
        client_id = _client_id(identity, query.get("clientId"))
        key = query.get("resume") or query.get("recover")
        connection, error = self._resumed(key, identity, client_id) if key else (None, None)
        if connection is None:
            connection = self._new_connection(identity)
            connection.client_id = client_id
        connection.identify(identity)
        form = Format.MSGPACK if query.get("format") == "msgpack" else Format.JSON
        connection.open(form, wake, echo=query.get("echo") != "false")
        self.welcome(connection, error)
        return connection

    def welcome(self, connection: Connection, error: RefusedError | None = None) -> None:
        """Queue the CONNECTED of a connection; *error* says why it is not the old one."""
        message: dict[str, Any] = {
            "action": int(Action.CONNECTED),
            "connectionId": connection.connection_id,
            "connectionDetails": self._details(connection),
        }
        if error is not None:
            message["error"] = error.as_wire()
        connection.send(message)

    def forget(self, connection: Connection) -> None:
        """Let go of a connection for good."""
        connection.detach_all()
        self.connections.pop(connection.connection_id, None)

    def continue_from(self, channel: Channel, serial: str) -> Backlog:
        """Return what came after the position of a client that attaches again (RTL4c1)."""
        return channel.log.after(serial, _RESUME_LIMIT)

    def check_room(self, connection: Connection) -> None:
        """Refuse one attachment more than a connection may have.

        Raises:
            RefusedError: 90021.
        """
        most = self.settings.channels_per_connection
        if connection.attachments >= most:
            raise RefusedError(90021, f"a connection may attach to at most {most} channels", 400)

    def tick(self) -> None:
        """Do what falls due: retention, lost connections, expired tokens. Once a second or so."""
        now_ms = self.now_ms()
        for key, channel in list(self._channels.items()):
            channel.log.prune(now_ms)
            if not channel.attachments and not channel.log:
                del self._channels[key]
        ttl_ms = int(self.settings.connection_state_ttl_s * 1000)
        for connection in list(self.connections.values()):
            if connection.lost_ms is not None:
                if now_ms - connection.lost_ms > ttl_ms:
                    self.forget(connection)
            elif not connection.closing:
                self._check_token(connection, now_ms)

    def beat(self) -> None:
        """Send a HEARTBEAT to every connection that was quiet since the last call (RTN23)."""
        for connection in list(self.connections.values()):
            if connection.lost_ms is None:
                if connection.quiet:
                    connection.send({"action": int(Action.HEARTBEAT)})
                connection.quiet = True

    def _make_channel(self, app: App, name: str) -> Channel:
        now_ms = self.now_ms()
        namespace = app.namespaces.get(name.partition(":")[0])
        retention_ms = self.settings.retention_ms(namespace)
        # whatever an earlier log of this name held has expired, so it begins where that ended
        begin_ms = max(self._began_ms, now_ms - retention_ms)
        clock = SerialClock(secrets.token_hex(6), begin_ms)
        log = ChannelLog(clock, retention_ms, begin_ms, self.settings.channel_memory_bytes)
        channel = Channel(name, log, namespace)
        self._channels[app.app_id, name] = channel
        return channel

    def _new_connection(self, identity: Identity) -> Connection:
        connection_id = secrets.token_urlsafe(8)
        connection_key = f"{connection_id}!{secrets.token_urlsafe(12)}"
        connection = Connection(self, connection_id, connection_key, identity)
        self.connections[connection_id] = connection
        return connection

    def _resumed(
        self, key: str, identity: Identity, client_id: str | None
    ) -> tuple[Connection | None, RefusedError | None]:
        """Return the connection that *key* resumes, or why it cannot be."""
        parts = _CONNECTION_KEY.match(key)
        if parts is None:
            return None, RefusedError(80018, "the connection key is not well formed", 400)
        connection = self.connections.get(parts[1])
        lost = RefusedError(80008, "unable to recover the connection: it has expired", 400)
        if connection is None or not secrets.compare_digest(connection.connection_key, key):
            return None, lost
        if connection.identity.app is not identity.app or connection.client_id != client_id:
            return None, RefusedError(80008, "the connection belongs to another identity", 400)
        return connection, None

    def _details(self, connection: Connection) -> dict[str, Any]:
        settings = self.settings
        details: dict[str, Any] = {
            "connectionKey": connection.connection_key,
            "connectionStateTtl": int(settings.connection_state_ttl_s * 1000),
            "maxIdleInterval": int(settings.max_idle_interval_s * 1000),
            "maxMessageSize": settings.max_message_bytes,
            "maxFrameSize": settings.max_frame_bytes,
            "maxInboundRate": settings.connection_rate_per_s,
            "serverId": "localably",
        }
        client_id = connection.client_id or connection.identity.client_id
        if client_id is not None:
            details["clientId"] = client_id
        return details

    def _check_token(self, connection: Connection, now_ms: int) -> None:
        expires_ms = connection.identity.expires_ms
        if expires_ms is None:
            return
        if expires_ms <= now_ms:
            error = RefusedError(40142, "the token has expired")
            connection.send({"action": int(Action.DISCONNECTED), "error": error.as_wire()})
            connection.closing = True
        elif connection.renew_at_ms is not None and connection.renew_at_ms <= now_ms:
            connection.renew_at_ms = None
            connection.send({"action": int(Action.AUTH)})


def _client_id(identity: Identity, asked: str | None) -> str | None:
    """Return the one client a connection is, None for an anonymous one or anybody (RSA7, RTN2d)."""
    if not asked or asked == "*":
        return None if identity.client_id == "*" else identity.client_id
    if not identity.may_be(asked):
        raise RefusedError(40102, "the clientId is not the one of the token")
    return asked

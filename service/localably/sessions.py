"""Opening and resuming connections (RTN15, RTN16), and the connection details sent to clients."""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .auth import Identity
from .connection import PRESENCE_GRACE_MS, ClientConnection
from .errors import RefusedError
from .faults import error_of
from .frames import Format
from .inbound import rollup_window_ms

if TYPE_CHECKING:
    from .hub import Hub

_LONGEST_PRESENCE_MS: Final = 60_000
_IDLE_MS: Final = (5000, 1_800_000)
_KEY: Final = re.compile(r"\A([0-9A-Za-z_-]{4,64})!([0-9A-Za-z_-]{4,64})-([0-9a-f]{8})\Z")


def connect(
    hub: Hub, identity: Identity, query: Mapping[str, str], wake: Callable[[], None]
) -> ClientConnection:
    """Open a connection, or resume one, and queue its CONNECTED.

    Raises:
        RefusedError: 40012, 40102, the clientId is not the identity's; 40000 a parameter is wrong.
    """
    client_id = _client_id(identity, query.get("clientId"))
    window_ms = rollup_window_ms(query.get("appendRollupWindow"))
    presence_ms = _milliseconds(
        query, "remainPresentFor", PRESENCE_GRACE_MS, 0, _LONGEST_PRESENCE_MS
    )
    usual_ms = int(hub.settings.max_idle_interval_s * 1000)
    idle_ms = _milliseconds(query, "heartbeatInterval", usual_ms, *_IDLE_MS)
    key = query.get("resume") or query.get("recover")
    connection, error = _resumed(hub, key, identity, client_id) if key else (None, None)
    if connection is None:
        connection = _new(hub, identity)
        connection.client_id = client_id
    else:
        connection.identify(identity)
        if "recover" in query:
            # the key goes with whom the connection goes; its old holder cannot take it back
            connection.connection_key = _new_key(connection.connection_id)
    form = Format.MSGPACK if query.get("format") == "msgpack" else Format.JSON
    connection.echo = query.get("echo") != "false"
    connection.rollup_window_ms = window_ms
    connection.presence_ms = presence_ms
    connection.idle_ms = idle_ms
    connection.open(form, wake)
    hub.welcome(connection, error)
    return connection


def details(connection: ClientConnection) -> dict[str, Any]:
    """Return the connectionDetails of a CONNECTED (CD2)."""
    settings = connection.hub.settings
    details: dict[str, Any] = {
        "connectionKey": connection.connection_key,
        "connectionStateTtl": int(settings.connection_state_ttl_s * 1000),
        "maxIdleInterval": connection.idle_ms,
        "maxMessageSize": settings.max_message_bytes,
        "maxFrameSize": settings.max_frame_bytes,
        "maxInboundRate": settings.connection_rate_per_s,
        "serverId": "localably",
    }
    client_id = connection.client_id or connection.identity.client_id
    if client_id is not None:
        details["clientId"] = client_id
    return details


def connection_of_key(hub: Hub, key: str) -> ClientConnection | None:
    """Return the connection with that connectionKey, for a publish on its behalf (TM2h)."""
    parts = _KEY.match(key)
    connection = hub.connections.get(parts[1]) if parts is not None else None
    if connection is None or connection.connection_key != key:
        return None
    return connection


def _new(hub: Hub, identity: Identity) -> ClientConnection:
    connection_id = secrets.token_hex(6)
    connection = ClientConnection(hub, connection_id, _new_key(connection_id), identity)
    hub.connections[connection_id] = connection
    return connection


def _new_key(connection_id: str) -> str:
    """Return a key with a checksum, so that expired (80008) and invalid (80018) keys differ."""
    body = f"{connection_id}!{secrets.token_hex(8)}"
    return f"{body}-{zlib.crc32(body.encode()):08x}"


def _resumed(
    hub: Hub, key: str, identity: Identity, client_id: str | None
) -> tuple[ClientConnection | None, RefusedError | None]:
    """Return the connection that *key* resumes, or why it cannot be."""
    parts = _KEY.match(key)
    if parts is None or int(parts[3], 16) != zlib.crc32(f"{parts[1]}!{parts[2]}".encode()):
        return None, RefusedError(80018, "the connection key is not valid", 400)
    refused = hub.faults.now("refuse_resume")
    if refused is not None:
        return None, error_of(refused, 80008)
    connection = connection_of_key(hub, key)
    if connection is None:
        return None, RefusedError(80008, "unable to recover the connection: it has expired", 400)
    if connection.identity.app is not identity.app or connection.client_id != client_id:
        return None, RefusedError(80008, "the connection belongs to another identity", 400)
    return connection, None


def _milliseconds(query: Mapping[str, str], name: str, usual: int, least: int, most: int) -> int:
    """Return a transport param in milliseconds, *usual* if it is absent.

    Raises:
        RefusedError: 40000, it is not *least* to *most*.
    """
    text = query.get(name)
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= most):
        raise RefusedError(
            40000, f"{name} must be {least} to {most} milliseconds, not {text[:20]!r}"
        )
    return int(text[:9])


def _client_id(identity: Identity, asked: str | None) -> str | None:
    """Return the one client a connection is, None for an anonymous one or anybody (RSA7, RTN2d)."""
    if not asked or asked == "*":
        return None if identity.client_id == "*" else identity.client_id
    if not identity.may_be(asked):
        raise RefusedError(40102, "the clientId is not the one of the token")
    return asked

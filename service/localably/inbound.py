"""What a realtime connection publishes: messages, changes of messages, and presence."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from . import names
from .errors import FrameError, RefusedError
from .frames import Flag
from .messages import APPEND, CREATE, accepted, check_size
from .mutations import MUTATIONS, mutate
from .presence import presence_action
from .publishing import Origin, check_client_id, concrete_client_id, publish

if TYPE_CHECKING:
    from .channel import Channel
    from .connection import ClientConnection

_LONGEST_WINDOW_MS: Final = 500
_ROLLUP_WINDOW_MS: Final = 40


def publish_frame(connection: ClientConnection, message: dict[str, Any]) -> dict[str, Any]:
    """Do what a MESSAGE frame asks for, and return its entry of an ACK's `res`.

    Raises:
        RefusedError: sent to the client as a NACK.
    """
    hub = connection.hub
    name = names.parse(channel_name(message))
    raw = message.get("messages")
    if not raw:
        raise FrameError("MESSAGE has no messages")
    messages = [accepted(item, connection.form) for item in raw]
    channel = hub.channel(connection.identity.app, name.base)
    if not _joins_held_append(channel, messages):
        hub.check_rates(connection.identity.app.app_id, name.base, connection)
    hub.faults.refuse("refuse_publish", 42911, name.base)
    _check_mode(connection, name.wire, Flag.PUBLISH)
    origin = _origin(connection, message)
    if messages[0].get("action", CREATE) in MUTATIONS:
        serial = _change(connection, channel, messages, origin)
        hidden = hub.faults.now("omit_version_serials", name.base) is not None
        return {"serials": [None if hidden else serial]}
    now_ms, most_bytes = hub.now_ms(), hub.settings.max_message_bytes
    bare = hub.faults.now("omit_serials", name.base) is not None
    return {"serials": publish(channel, messages, origin, now_ms, most_bytes, bare=bare)}


def presence_frame(connection: ClientConnection, message: dict[str, Any]) -> None:
    """Do what a PRESENCE frame asks for (RTP8, RTP9, RTP10).

    Raises:
        RefusedError: sent to the client as a NACK.
    """
    hub = connection.hub
    name = names.parse(channel_name(message))
    raw = message.get("presence")
    if not raw:
        raise FrameError("PRESENCE has no presence messages")
    if connection.attached(name.wire) is None:
        raise RefusedError(90001, "presence needs the channel to be attached", 400)
    _check_mode(connection, name.wire, Flag.PRESENCE)
    connection.identity.require(name.base, "presence")
    messages = [accepted(item, connection.form) for item in raw]
    check_size(messages, hub.settings.max_message_bytes)
    channel = hub.channel(connection.identity.app, name.base)
    origin = _origin(connection, message)
    for index, item in enumerate(messages):
        check_client_id(item, origin)
        client_id = item.get("clientId") or concrete_client_id(origin)
        if client_id is None:
            raise RefusedError(40012, "presence needs a clientId")
        fields: dict[str, Any] = {
            "id": f"{origin.base_id}:{index}",
            "clientId": client_id,
            "connectionId": connection.connection_id,
            "timestamp": hub.now_ms(),
            "action": int(presence_action(item)),
        }
        fields |= {key: item[key] for key in ("data", "encoding", "extras") if key in item}
        channel.announce(fields, hub.now_ms())


def leave_presence(connection: ClientConnection, channel: Channel, now_ms: int) -> None:
    """Let the members that a connection entered leave, because it left the channel (RTP)."""
    for member in channel.members.of_connection(connection.connection_id):
        # an id that is not of the connection: clients compare such a message by its time (RTP2b1)
        leave_id = f"leave-{secrets.token_hex(6)}:0"
        leave = {**member, "id": leave_id, "action": 3, "timestamp": now_ms}
        channel.announce(leave, now_ms)


def rollup_window_ms(text: str | None) -> int:
    """Return for how long a connection's appends may be held back (`appendRollupWindow`).

    Raises:
        RefusedError: 40000, it is not 0 to 500.
    """
    if text is None:
        return _ROLLUP_WINDOW_MS
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= _LONGEST_WINDOW_MS):
        raise RefusedError(40000, f"appendRollupWindow is 0 to {_LONGEST_WINDOW_MS} milliseconds")
    return int(text)


def channel_name(message: dict[str, Any]) -> str:
    """Return the channel that a frame names.

    Raises:
        FrameError: it names none.
    """
    channel = message.get("channel")
    if not isinstance(channel, str):
        raise FrameError("the frame names no channel")
    return channel


def _joins_held_append(channel: Channel, messages: list[dict[str, Any]]) -> bool:
    """Return True if a publish adds no delivery: rates count what is left after roll-up."""
    first = messages[0]
    return first.get("action") == APPEND and channel.rollup.holds(first.get("serial", ""))


def _change(
    connection: ClientConnection, channel: Channel, messages: list[dict[str, Any]], origin: Origin
) -> str | None:
    if len(messages) != 1:
        raise FrameError("one frame changes one message")
    hub = connection.hub
    return mutate(
        channel,
        messages[0],
        origin,
        hub.now_ms(),
        most_bytes=hub.settings.max_message_bytes,
        window_ms=connection.rollup_window_ms,
        drops_extras=hub.faults.now("drop_append_extras", channel.name) is not None,
    )


def _origin(connection: ClientConnection, message: dict[str, Any]) -> Origin:
    base_id = f"{connection.connection_id}:{message['msgSerial']}"
    return Origin(connection.identity, base_id, connection.connection_id, connection.client_id)


def _check_mode(connection: ClientConnection, wire_name: str, mode: Flag) -> None:
    attachment = connection.attached(wire_name)
    if attachment is not None and mode not in attachment.modes:
        raise RefusedError(40160, f"this attachment was not granted the mode {mode.name}")

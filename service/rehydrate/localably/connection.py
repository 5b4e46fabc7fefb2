"""One realtime connection, as a state machine without a socket.

The shell hands in each frame with `receive` and sends what has gathered in `outgoing`; `wake` is
called when there is something to send. `closing` asks the shell to close the socket once that is
done. A connection outlives its socket for the time to live, so that it can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from . import attaching, names
from .auth import Identity
from .channel import Attachment, Channel
from .errors import FrameError, RefusedError
from .frames import Action, Flag, Format, decode, frame
from .log import Backlog
from .messages import Delivery, accepted
from .publishing import Origin, publish

if TYPE_CHECKING:
    from .hub import Hub

_REMEMBERED_ACKS: Final = 1000


class Connection:
    """A client's connection.

    Attributes:
        connection_id: what the client knows it by.
        connection_key: what resumes it.
        identity: who it is.
        client_id: the one client it is; None if it is anonymous or may be anybody.
        echo: whether its own messages come back to it.
        outgoing: frames to be sent, in order.
        closing: the socket is to be closed after them.
        lost_ms: when its socket was lost, in milliseconds; None while it has one.
        socket: counts the sockets it has had, so that an old one notices that it was replaced.
    """

    def __init__(
        self, hub: Hub, connection_id: str, connection_key: str, identity: Identity
    ) -> None:
        self.hub = hub
        self.connection_id = connection_id
        self.connection_key = connection_key
        self.identity = identity
        self.client_id: str | None = None
        self.echo = True
        self.form = Format.JSON
        self.outgoing: list[bytes] = []
        self.closing = False
        self.quiet = False
        self.lost_ms: int | None = None
        self.renew_at_ms: int | None = None
        self.socket = 0
        self._wake: Callable[[], None] = _asleep
        self._attached: dict[str, tuple[Channel, Attachment]] = {}
        self._acked: dict[int, tuple[int, dict[str, Any]]] = {}

    def open(self, form: Format, wake: Callable[[], None], *, echo: bool) -> None:
        """Begin on a new socket, also in place of another; attachments begin anew."""
        self.detach_all()
        self.socket += 1
        self.form = form
        self.echo = echo
        self._wake = wake
        self.outgoing = []
        self.closing = False
        self.lost_ms = None

    def identify(self, identity: Identity) -> None:
        """Take on an identity; its client will be asked to renew a token that lives long enough."""
        self.identity = identity
        warning_ms = int(self.hub.settings.token_warning_s * 1000)
        renew_at_ms = (identity.expires_ms or 0) - warning_ms
        # a token that is shorter than the warning is not worth a request at once
        self.renew_at_ms = renew_at_ms if renew_at_ms > self.hub.now_ms() else None

    def lose(self, now_ms: int) -> None:
        """Let go of the socket; the connection can be resumed for its time to live."""
        self._wake = _asleep
        self.outgoing = []
        self.lost_ms = now_ms
        self.detach_all()

    def detach_all(self) -> None:
        """Take the connection off every channel."""
        for wire_name, (channel, _) in self._attached.items():
            channel.detach(self.connection_id, wire_name)
        self._attached.clear()

    @property
    def attachments(self) -> int:
        """How many channels it is attached to."""
        return len(self._attached)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a ProtocolMessage."""
        self.outgoing.append(frame(message, self.form))
        self.quiet = False
        self._wake()

    def deliver(self, delivery: Delivery, channel: str) -> None:
        """Queue messages of a channel, as bytes that are shared with other connections."""
        self.outgoing.append(delivery.frame(self.form, channel))
        self.quiet = False
        self._wake()

    def fail(self, error: RefusedError) -> None:
        """End the connection with an ERROR for the whole of it (RTN15i); it cannot be resumed."""
        self.send({"action": int(Action.ERROR), "error": error.as_wire()})
        self.closing = True
        self.hub.forget(self)

    def receive(self, data: bytes | str) -> None:
        """Handle one frame of the client; what is wrong with it is answered, never raised."""
        if self.closing:
            return
        try:
            message = decode(data, Format.JSON if isinstance(data, str) else Format.MSGPACK)
            handler = _HANDLERS.get(message["action"])
            if handler is None:
                raise FrameError(f"a client does not send action {message['action']}")
            handler(self, message)
        except RefusedError as error:
            self.fail(error)

    def _on_heartbeat(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"action": int(Action.HEARTBEAT)}
        if "id" in message:
            answer["id"] = message["id"]
        self.send(answer)

    def _on_close(self, _: dict[str, Any]) -> None:
        self.send({"action": int(Action.CLOSED)})
        self.closing = True
        self.hub.forget(self)

    def _on_disconnect(self, _: dict[str, Any]) -> None:
        self.closing = True
        self._wake()

    def _on_auth(self, message: dict[str, Any]) -> None:
        token = message.get("auth", {}).get("accessToken")
        if not isinstance(token, str):
            raise RefusedError(40101, "AUTH needs an accessToken")
        identity = self.hub.authenticator.by_token(token)
        known = self.client_id
        if known is not None and identity.client_id not in (known, "*"):
            raise RefusedError(40102, "the clientId of the new token is not the connection's")
        self.identify(identity)
        self.hub.welcome(self)
        self._drop_ungranted()

    def _drop_ungranted(self) -> None:
        """Detach from channels that the new token does not cover (RTC8a1)."""
        for wire_name, (channel, attachment) in list(self._attached.items()):
            wish = attaching.Wish(attachment.modes, attachment.params)
            try:
                attachment.modes = attaching.granted_modes(wish, self.identity, channel.name)
            except RefusedError as error:
                self._leave(wire_name)
                self._refuse_channel(wire_name, error)

    def _on_attach(self, message: dict[str, Any]) -> None:
        wire_name = _channel_of(message)
        try:
            name = names.parse(wire_name)
            wish = attaching.wish_of(message, name)
            modes = attaching.granted_modes(wish, self.identity, name.base)
            channel = self._room_for(wire_name, name)
            backlog, resumed = self._backlog(message, channel, wish.params)
        except RefusedError as error:
            self._leave(wire_name)
            self._refuse_channel(wire_name, error)
            return
        self._attach(channel, Attachment(self, wire_name, modes, wish.params), backlog, resumed)

    def _room_for(self, wire_name: str, name: names.ChannelName) -> Channel:
        if wire_name not in self._attached:
            self.hub.check_room(self)
        return self.hub.channel(self.identity.app, name.base)

    def _backlog(
        self, message: dict[str, Any], channel: Channel, params: dict[str, str]
    ) -> tuple[Backlog, bool]:
        """Return what comes before live messages, and whether nothing was missed (RTL4c1)."""
        wire_name = message["channel"]
        channel.log.prune(self.hub.now_ms())
        continuing = bool(Flag(message.get("flags", 0)) & Flag.ATTACH_RESUME)
        if wire_name in self._attached:
            # all that was published so far is on its way to this socket already
            return Backlog([], channel.log.head), True
        serial = message.get("channelSerial")
        if serial is not None:
            backlog = self.hub.continue_from(channel, serial)
            return backlog, backlog.error is None
        if continuing:
            return Backlog([], channel.log.head), False
        settings = self.hub.settings
        return attaching.rewound(
            channel.log, params, self.hub.now_ms(), settings.rewind_limit
        ), False

    def _attach(
        self, channel: Channel, attachment: Attachment, backlog: Backlog, resumed: bool
    ) -> None:
        before = self._attached.get(attachment.wire_name)
        if channel.mutable:
            attachment.seen = before[1].seen if before else set()
        flags = attachment.modes
        if resumed:
            flags |= Flag.RESUMED
        if backlog.groups:
            flags |= Flag.HAS_BACKLOG
        answer: dict[str, Any] = {
            "action": int(Action.ATTACHED),
            "channel": attachment.wire_name,
            "channelSerial": backlog.position,
            "flags": int(flags),
            "params": attachment.params,
        }
        if backlog.error is not None:
            answer["error"] = backlog.error.as_wire()
        self.send(answer)
        self._attached[attachment.wire_name] = (channel, attachment)
        channel.attach(attachment)
        channel.replay(attachment, backlog.groups)

    def _refuse_channel(self, wire_name: str, error: RefusedError) -> None:
        """Fail one channel; the connection goes on (RTL14)."""
        self.send({"action": int(Action.ERROR), "channel": wire_name, "error": error.as_wire()})

    def _on_detach(self, message: dict[str, Any]) -> None:
        wire_name = _channel_of(message)
        self._leave(wire_name)
        self.send({"action": int(Action.DETACHED), "channel": wire_name})

    def _leave(self, wire_name: str) -> None:
        found = self._attached.pop(wire_name, None)
        if found is not None:
            found[0].detach(self.connection_id, wire_name)

    def _on_message(self, message: dict[str, Any]) -> None:
        serial = message.get("msgSerial")
        if not isinstance(serial, int):
            raise FrameError("MESSAGE needs a msgSerial")
        answer: dict[str, Any] = {"msgSerial": serial, "count": 1}
        try:
            result = self._publish(message, serial)
        except RefusedError as error:
            self.send({"action": int(Action.NACK), **answer, "error": error.as_wire()})
        else:
            self.send({"action": int(Action.ACK), **answer, "res": [result]})

    def _publish(self, message: dict[str, Any], serial: int) -> dict[str, Any]:
        name = names.parse(_channel_of(message))
        raw = message.get("messages")
        if not raw:
            raise FrameError("MESSAGE has no messages")
        # msgSerials may begin anew after a failed resume, so the content has to be the same too
        mark = hash(repr(message))
        known = self._acked.get(serial)
        if known is not None and known[0] == mark:
            return known[1]
        form = self.form
        messages = [accepted(item, form) for item in raw]
        channel = self.hub.channel(self.identity.app, name.base)
        self._check_mode(message["channel"])
        origin = Origin(
            self.identity, f"{self.connection_id}:{serial}", self.connection_id, self.client_id
        )
        serials = publish(
            channel, messages, origin, self.hub.now_ms(), self.hub.settings.max_message_bytes
        )
        result = {"serials": serials}
        self._acked[serial] = (mark, result)
        if len(self._acked) > _REMEMBERED_ACKS:
            del self._acked[next(iter(self._acked))]
        return result

    def _check_mode(self, wire_name: str) -> None:
        found = self._attached.get(wire_name)
        if found is not None and Flag.PUBLISH not in found[1].modes:
            raise RefusedError(40160, "this attachment was not granted the mode PUBLISH")


def _asleep() -> None:
    """Stand in for a socket while there is none."""


def _channel_of(message: dict[str, Any]) -> str:
    channel = message.get("channel")
    if not isinstance(channel, str):
        raise FrameError("the frame names no channel")
    return channel


_HANDLERS: Final[dict[int, Callable[[Connection, dict[str, Any]], None]]] = {
    Action.HEARTBEAT: Connection._on_heartbeat,  # noqa: SLF001 - the machine's own table
    Action.CLOSE: Connection._on_close,  # noqa: SLF001
    Action.DISCONNECT: Connection._on_disconnect,  # noqa: SLF001
    Action.AUTH: Connection._on_auth,  # noqa: SLF001
    Action.ATTACH: Connection._on_attach,  # noqa: SLF001
    Action.DETACH: Connection._on_detach,  # noqa: SLF001
    Action.MESSAGE: Connection._on_message,  # noqa: SLF001
}

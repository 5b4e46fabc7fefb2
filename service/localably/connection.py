"""One realtime connection, as a state machine without a socket.

The shell hands in each frame with `receive` and sends the frames in `outgoing`; `wake` is
called when there is something to send. `closing` asks the shell to close the socket once that is
done. A connection outlives its socket for the time to live, so that it can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from . import attaching, inbound, names
from .acks import RecentAcks
from .auth import Identity
from .channel import Attachment, Channel
from .deltas import DeltaStream
from .errors import FrameError, RefusedError
from .filters import MessageFilter
from .frames import Action, Flag, Format, decode, frame
from .limits import Rate
from .log import MissedMessages
from .messages import Delivery

if TYPE_CHECKING:
    from .hub import Hub

PRESENCE_GRACE_MS: Final = 15_000


class ClientConnection:
    """A client's connection.

    Attributes:
        connection_id: what the client knows it by.
        connection_key: what resumes it.
        identity: who it is.
        client_id: the one client it is; None if it is anonymous or may be anybody.
        echo: whether its own messages come back to it.
        rollup_window_ms: for how long its appends may be held back.
        idle_ms: the server is never silent for longer (`heartbeatInterval`).
        presence_ms: how long its members stay present once its socket is lost (`remainPresentFor`).
        outgoing: frames to be sent, in order.
        closing: the socket is to be closed after them.
        quiet: whether nothing was sent since `quiet_since_ms`.
        lost_ms: when its socket was lost, in milliseconds; None while it has one.
        socket: counts the sockets it has had, so that an old one notices that it was replaced.
        renew_at_ms: when its client is to be asked for a new token; None for never.
        inbound_rate, outbound_rate: its publish and receive limits, where enforced.
    """

    def __init__(
        self, hub: Hub, connection_id: str, connection_key: str, identity: Identity
    ) -> None:
        self.hub = hub
        self.connection_id = connection_id
        self.connection_key = connection_key
        self.client_id: str | None = None
        self.echo = True
        self.rollup_window_ms = 0
        self.idle_ms = int(hub.settings.max_idle_interval_s * 1000)
        self.presence_ms = PRESENCE_GRACE_MS
        self.form = Format.JSON
        self.outgoing: list[bytes] = []
        self.closing = False
        self.quiet = False
        self.quiet_since_ms = 0
        self.lost_ms: int | None = None
        self.socket = 0
        self.inbound_rate = Rate(hub.settings.connection_rate_per_s)
        self.outbound_rate = Rate(hub.settings.connection_rate_per_s)
        self._wake: Callable[[], None] = _asleep
        self._attached: dict[str, tuple[Channel, Attachment]] = {}
        self._held_back: dict[str, list[bytes]] = {}
        self._present_on: set[Channel] = set()
        self._acks = RecentAcks()
        self.identify(identity)

    def identify(self, identity: Identity) -> None:
        """Take on an identity; its client will be asked to renew a token that lives long enough."""
        self.identity = identity
        warning_ms = int(self.hub.settings.token_warning_s * 1000)
        renew_at_ms = (identity.expires_ms or 0) - warning_ms
        # a token that is shorter than the warning is not worth a request at once
        self.renew_at_ms = renew_at_ms if renew_at_ms > self.hub.now_ms() else None

    def open(self, form: Format, wake: Callable[[], None]) -> None:
        """Start on a new socket, replacing another if there is one; attachments restart."""
        self._let_go()
        self.socket += 1
        self.form = form
        self._wake()
        self._wake = wake
        self.outgoing = []
        self.closing = False
        self.lost_ms = None

    def lose(self, now_ms: int) -> None:
        """Let go of the socket; the connection can be resumed for its time to live."""
        self._wake = _asleep
        self.outgoing = []
        self.lost_ms = now_ms
        self._let_go()

    def wake(self) -> None:
        """Have the shell look at the connection."""
        self._wake()

    def end(self) -> None:
        """Leave every channel, with those whom it entered as present."""
        for wire_name in list(self._attached):
            self._leave(wire_name)
        self.leave_presence()

    def leave_presence(self) -> None:
        """Let those leave whom it entered as present."""
        for channel in self._present_on:
            inbound.leave_presence(self, channel, self.hub.now_ms())
        self._present_on.clear()

    @property
    def attachments(self) -> int:
        """How many channels it is attached to."""
        return len(self._attached)

    def attached(self, wire_name: str) -> Attachment | None:
        """Return its attachment to a channel."""
        found = self._attached.get(wire_name)
        return found[1] if found is not None else None

    def send(self, message: dict[str, Any]) -> None:
        """Queue a ProtocolMessage."""
        self.outgoing.append(frame(message, self.form))
        self.quiet = False
        self._wake()

    def deliver(self, delivery: Delivery, channel: str) -> None:
        """Queue messages of a channel, as bytes that are shared with other connections."""
        framed = delivery.frame(self.form, channel)
        if (held_back := self._held_back.get(channel)) is not None:
            held_back.append(framed)
            return
        self.outgoing.append(framed)
        self.quiet = False
        self._wake()

    def tell_loss(self, attachment: Attachment, position: str, error: RefusedError) -> None:
        """Tell that a channel's messages up to *position* were not delivered (RTL12)."""
        self.send(
            {
                "action": int(Action.ATTACHED),
                "channel": attachment.wire_name,
                "channelSerial": position,
                "flags": int(attachment.modes),
                "params": attachment.params,
                "error": error.as_wire(),
            }
        )

    def disconnect(self, error: RefusedError) -> None:
        """Send the reason and close the socket; the client may reconnect and resume (RTN15h)."""
        self.send({"action": int(Action.DISCONNECTED), "error": error.as_wire()})
        self.closing = True

    def fail(self, error: RefusedError) -> None:
        """End the connection with an ERROR for the whole of it (RTN15i); it cannot be resumed."""
        self.send({"action": int(Action.ERROR), "error": error.as_wire()})
        self.closing = True
        self.hub.forget(self)

    def receive(self, data: bytes | str) -> None:
        """Handle one frame of the client; errors in it are answered, never raised."""
        if self.closing:
            return
        try:
            message = decode(data, Format.JSON if isinstance(data, str) else Format.MSGPACK)
            handler = self._HANDLERS.get(message["action"])
            if handler is not None:
                handler(self, message)
            elif isinstance(message.get("msgSerial"), int):
                self._refuse_action(message)  # others, such as SYNC, are ignored (RSF1)
        except RefusedError as error:
            self.fail(error)

    def _refuse_action(self, message: dict[str, Any]) -> None:
        """Answer a numbered frame that is not supported, for its sender waits for an answer."""
        error = RefusedError(40000, f"action {message['action']} is not supported", 400)
        answer = {"action": int(Action.NACK), "msgSerial": message["msgSerial"], "count": 1}
        self.send({**answer, "error": error.as_wire()})

    def _on_heartbeat(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"action": int(Action.HEARTBEAT)}
        if "id" in message:
            answer["id"] = message["id"]
        self.send(answer)

    def _on_close(self, _: dict[str, Any]) -> None:
        self.hub.forget(self)
        self.send({"action": int(Action.CLOSED)})
        self.closing = True

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
        if identity.app is not self.identity.app:
            raise RefusedError(40102, "the new token is of another app")
        self.identify(identity)
        self.hub.welcome(self)
        self._grant_again()

    def _grant_again(self) -> None:
        """Grant what the new token covers, and fail the channels that it does not (RTC8a1)."""
        for wire_name, (_, attachment) in list(self._attached.items()):
            wish = attaching.Wish(attachment.wished, attachment.params)
            try:
                resource = names.parse_filtered(wire_name).resource
                attachment.modes = attaching.granted_modes(wish, self.identity, resource)
            except RefusedError as error:
                self._leave(wire_name)
                self._refuse_channel(wire_name, error)

    def _on_attach(self, message: dict[str, Any]) -> None:
        wire_name = inbound.channel_name(message)
        try:
            name = names.parse_filtered(wire_name)
            chosen = None if name.filter is None else MessageFilter(name.filter)
            self.hub.faults.refuse("refuse_attach", 40160, name.base)
            wish = attaching.wish_of(message, name)
            modes = attaching.granted_modes(wish, self.identity, name.resource)
            if wire_name not in self._attached:
                self.hub.check_room(self)
            channel = self.hub.channel(self.identity.app, name.base)
            backlog, resumed = self._backlog(message, channel, wish.params)
        except RefusedError as error:
            self._leave(wire_name)
            self._refuse_channel(wire_name, error)
            return
        deltas = DeltaStream() if "delta" in wish.params else None
        made = Attachment(
            self, wire_name, modes, wish.modes, wish.params, filter=chosen, deltas=deltas
        )
        self._attach(channel, made, backlog, resumed=resumed)

    def _backlog(
        self, message: dict[str, Any], channel: Channel, params: dict[str, str]
    ) -> tuple[MissedMessages, bool]:
        """Return the backlog sent before live messages, and whether it is complete (RTL4c1)."""
        channel.rollup.flush()
        channel.log.prune(self.hub.now_ms())
        serial = message.get("channelSerial")
        if serial is None and message["channel"] in self._attached:
            # all that was published so far is on its way to this socket already
            return MissedMessages([], channel.log.head), True
        if serial is not None:
            backlog = self.hub.continue_from(channel, serial)
            return backlog, backlog.error is None
        if Flag.ATTACH_RESUME & message.get("flags", 0):
            return MissedMessages([], channel.log.head), False
        cap = self.hub.settings.rewind_limit
        return attaching.rewound(channel.log, params, self.hub.now_ms(), cap), False

    def _attach(
        self, channel: Channel, attachment: Attachment, backlog: MissedMessages, *, resumed: bool
    ) -> None:
        before = self._attached.get(attachment.wire_name)
        if channel.mutable:
            attachment.seen = before[1].seen if before else set()
        flags = attachment.modes
        flags |= Flag.RESUMED if resumed else 0
        flags |= Flag.HAS_BACKLOG if backlog.groups else 0
        if Flag.PRESENCE_SUBSCRIBE in attachment.modes and len(channel.members):
            flags |= Flag.HAS_PRESENCE
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
        late = self.hub.faults.now("delay_backlog", channel.name) if backlog.groups else None
        if late is not None:
            self._hold_back(attachment.wire_name, late.get("ms", 1000) / 1000)
        channel.replay(attachment, backlog.groups)
        if Flag.PRESENCE_SUBSCRIBE in attachment.modes:
            for page in channel.members.sync(channel.log.head):
                self.deliver(page, attachment.wire_name)

    def _hold_back(self, wire_name: str, seconds: float) -> None:
        """Hold deliveries of a channel back for some time, unless it is left before."""
        held_back = self._held_back[wire_name] = []

        def release() -> None:
            if self._held_back.get(wire_name) is held_back:
                del self._held_back[wire_name]
                self.outgoing += held_back
                self._wake()

        self.hub.schedule(seconds, release)

    def _refuse_channel(self, wire_name: str, error: RefusedError) -> None:
        """Fail one channel; the connection goes on (RTL14)."""
        self.send({"action": int(Action.ERROR), "channel": wire_name, "error": error.as_wire()})

    def _on_detach(self, message: dict[str, Any]) -> None:
        wire_name = inbound.channel_name(message)
        self._leave(wire_name)
        self.send({"action": int(Action.DETACHED), "channel": wire_name})

    def _leave(self, wire_name: str) -> None:
        found = self._attached.pop(wire_name, None)
        self._held_back.pop(wire_name, None)
        if found is not None:
            channel = found[0]
            channel.detach(self.connection_id, wire_name)
            if channel in self._present_on:
                self._present_on.discard(channel)
                inbound.leave_presence(self, channel, self.hub.now_ms())

    def _let_go(self) -> None:
        """Take the attachments off, and leave presence as it is, for the client may come back."""
        for wire_name, (channel, _) in self._attached.items():
            channel.detach(self.connection_id, wire_name)
        self._attached.clear()
        self._held_back.clear()

    def _on_message(self, message: dict[str, Any]) -> None:
        self._answer(message, inbound.publish_frame)

    def _on_presence(self, message: dict[str, Any]) -> None:
        self._answer(message, self._enter)

    def _enter(self, _: ClientConnection, message: dict[str, Any]) -> dict[str, Any] | None:
        found = self._attached.get(inbound.channel_name(message))
        inbound.presence_frame(self, message)
        if found is not None:
            self._present_on.add(found[0])
        return None

    def _answer(
        self,
        message: dict[str, Any],
        act: Callable[[ClientConnection, dict[str, Any]], dict[str, Any] | None],
    ) -> None:
        """Do what a numbered frame asks for, once, and acknowledge it (RTN7a, RTN19a)."""
        serial = message.get("msgSerial")
        if not isinstance(serial, int):
            raise FrameError("the frame needs a msgSerial")
        answer: dict[str, Any] = {"action": int(Action.ACK), "msgSerial": serial, "count": 1}
        mark = hash(repr(message))
        result = self._acks.find(serial, mark)
        try:
            if result is None:
                done = act(self, message)
                result = {} if done is None else {"res": [done]}
                self._acks.add(serial, mark, result)
        except RefusedError as error:
            self.send({**answer, "action": int(Action.NACK), "error": error.as_wire()})
            return
        if self.hub.faults.now("lose_acks", message.get("channel")) is None:
            self.send({**answer, **result})

    _HANDLERS: ClassVar[dict[int, Callable[[ClientConnection, dict[str, Any]], None]]] = {
        Action.HEARTBEAT: _on_heartbeat,
        Action.CLOSE: _on_close,
        Action.DISCONNECT: _on_disconnect,
        Action.AUTH: _on_auth,
        Action.ATTACH: _on_attach,
        Action.DETACH: _on_detach,
        Action.MESSAGE: _on_message,
        Action.PRESENCE: _on_presence,
    }


def _asleep() -> None:
    """Stand in for a socket while there is none."""

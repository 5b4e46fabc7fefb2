"""The core without a socket: a hub with a clock that the test moves, and connections to it."""

from __future__ import annotations

from localably.config import Key, LocalAblySettings, Namespace, apps_of
from localably.frames import Action, Format, decode, pack
from localably.hub import Hub

KEY = "app.key:secret-of-the-key"
NAMESPACES = (Namespace("persisted", persisted=True), Namespace("mutable", mutable=True))


class World:
    """A hub whose time does not pass until `pass_ms` moves it."""

    def __init__(self, **settings):
        self.now_ms = 1_700_000_000_000
        self.later = []
        self.hub = Hub(
            apps_of([Key.parse(KEY)], NAMESPACES),
            LocalAblySettings(**settings),
            self.clock,
            self.schedule,
        )
        self.app = self.hub.apps["app"]

    def clock(self):
        return self.now_ms

    def schedule(self, delay_s, act):
        self.later.append((self.now_ms + delay_s * 1000, act))

    def pass_ms(self, ms):
        self.now_ms += ms
        due = [act for at, act in self.later if at <= self.now_ms]
        self.later = [(at, act) for at, act in self.later if at > self.now_ms]
        for act in due:
            act()
        self.hub.tick()

    def connect(self, form=Format.JSON, **query):
        identity = self.hub.authenticator.by_key(KEY)
        if form is Format.MSGPACK:
            query["format"] = "msgpack"
        return Peer(self.hub.connect(identity, query, lambda: None), form)

    def channel(self, name="room"):
        return self.hub.channel(self.app, name)


class Peer:
    """The client's end of a connection: sends frames, and parses the answers."""

    def __init__(self, connection, form=Format.JSON):
        self.connection = connection
        self.form = form
        self.serial = 0
        self.connected = self.take()[0]

    def send(self, **message):
        data = pack(message, self.form)
        self.connection.receive(data.decode() if self.form is Format.JSON else data)
        return self.take()

    def take(self):
        frames, self.connection.outgoing = self.connection.outgoing, []
        return [decode(payload_of(frame), self.form) for frame in frames]

    def attach(self, channel="room", **fields):
        return self.send(action=Action.ATTACH, channel=channel, **fields)

    def publish(self, *messages, channel="room", **fields):
        serial, self.serial = self.serial, self.serial + 1
        fields = {"msgSerial": serial, **fields}
        return self.send(action=Action.MESSAGE, channel=channel, messages=list(messages), **fields)


def payload_of(frame):
    """Return the payload of one unmasked WebSocket frame."""
    length = frame[1]
    skip = {126: 4, 127: 10}.get(length, 2)
    return frame[skip:]


def texts(frames):
    """Return the data of every message in the frames."""
    return [m.get("data") for f in frames for m in f.get("messages", ())]


def change(peer, action, serial, **fields):
    return peer.publish({"action": action, "serial": serial, **fields}, channel="mutable:a")


def created(peer, **fields):
    answers = peer.publish({"data": "x", **fields}, channel="mutable:a")
    return next(a for a in answers if a["action"] == Action.ACK)["res"][0]["serials"][0]

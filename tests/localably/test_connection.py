"""The state machine of a connection, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from channel_server.worlds import World, change, created, texts
from localably.frames import Action, Flag, Format, pack


def test_rtn13e_a_heartbeat_is_answered_with_its_id():
    peer = World().connect()
    assert peer.send(action=Action.HEARTBEAT, id="x") == [{"action": 0, "id": "x"}]
    assert peer.send(action=Action.HEARTBEAT) == [{"action": 0}]


def test_close_is_answered_and_the_connection_is_gone():
    world = World()
    peer = world.connect()
    peer.attach()
    assert peer.send(action=Action.CLOSE) == [{"action": Action.CLOSED}]
    assert peer.connection.closing
    assert not world.hub.connections
    assert not world.channel().attachments
    assert peer.send(action=Action.HEARTBEAT) == []


@pytest.mark.parametrize("action", [99, Action.SYNC, Action.CONNECTED])
def test_a_frame_with_an_action_that_clients_do_not_send_is_ignored_or_refused(action):
    world = World()
    peer = world.connect()
    assert peer.send(action=action) == []
    [refused] = peer.send(action=action, msgSerial=3)
    assert (refused["action"], refused["msgSerial"]) == (Action.NACK, 3)
    assert refused["error"]["code"] == 40000
    assert not peer.connection.closing


def test_an_attach_with_an_older_position_on_a_live_attachment_replays():
    world = World()
    peer, writer = world.connect(), world.connect()
    attached = peer.attach()[0]
    writer.publish({"data": "1"}, {"data": "2"})
    assert texts(peer.take()) == ["1", "2"]
    again, *replayed = peer.attach(channelSerial=attached["channelSerial"])
    assert again["flags"] & Flag.RESUMED
    assert texts(replayed) == ["1", "2"]
    newest = replayed[-1]["channelSerial"]
    assert texts(peer.attach(channelSerial=newest)) == []


def test_the_channel_param_echo_stops_the_echo_of_one_attachment():
    world = World()
    peer = world.connect()
    peer.attach(params={"echo": "false"})
    peer.attach("other")
    assert texts(peer.publish({"data": "x"})) == []
    assert texts(peer.publish({"data": "y"}, channel="other")) == ["y"]
    silent = world.connect()
    silent.attach("mutable:a", params={"echo": "false"})
    change(silent, 5, created(silent), data="more")
    assert silent.take() == []


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize(
    "frame",
    [
        {"action": Action.ATTACH},
        {"action": Action.ATTACH, "channel": 5},
        {"action": Action.MESSAGE, "channel": "a", "messages": [{}]},
        {"action": Action.AUTH, "auth": {"accessToken": 5}},
        {"action": "x"},
        [],
        "x",
        None,
    ],
    ids=repr,
)
def test_an_invalid_frame_ends_its_own_connection_and_no_other(form, frame):
    world = World()
    other = world.connect()
    other.attach()
    peer = world.connect(form)
    data = pack(frame, form)
    peer.connection.receive(data.decode() if form is Format.JSON else data)
    [answer] = peer.take()
    assert answer["action"] == Action.ERROR
    assert "channel" not in answer
    assert peer.connection.closing
    world.connect().publish({"data": "x"})
    assert texts(other.take()) == ["x"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": ["x"]},
        {"messages": [{"name": 5}]},
        {"messages": [{"data": "x" * 70_000}]},
        {"messages": [{"data": "x"}], "channel": ":bad"},
        {"messages": [{"data": "x", "clientId": "*"}]},
        {"messages": [{"id": "a:0"}, {"id": "a:2"}]},
        {"messages": [{"id": "a:0"}, {}]},
    ],
    ids=lambda f: str(f)[:40],
)
def test_an_invalid_publish_is_refused_and_the_connection_continues(fields):
    peer = World().connect()
    [nack] = peer.send(action=Action.MESSAGE, msgSerial=0, **{"channel": "room", **fields})
    assert (nack["action"], nack["msgSerial"], nack["count"]) == (Action.NACK, 0, 1)
    assert peer.publish({"data": "x"}, msgSerial=1)[0]["action"] == Action.ACK


def test_rtn7a_msg_serial_0_is_written_and_acks_come_in_order():
    peer = World().connect()
    answers = [peer.publish({"data": str(n)})[0] for n in range(3)]
    assert [(a["action"], a["msgSerial"], a["count"]) for a in answers] == [
        (1, n, 1) for n in range(3)
    ]
    assert all(len(a["res"][0]["serials"]) == 1 for a in answers)


def test_rtn19a_a_resent_frame_is_acknowledged_and_not_published_again():
    world = World()
    peer = world.connect()
    first = peer.publish({"data": "x"}, msgSerial=0)
    peer.connection.lose(world.now_ms)
    again = world.connect(resume=peer.connection.connection_key)
    assert again.connection is peer.connection
    assert again.publish({"data": "x"}, msgSerial=0) == first
    assert again.publish({"data": "y"}, msgSerial=0) != first, "another content is another publish"
    assert len(world.channel().log) == 2


def test_a_detach_and_an_unknown_detach_are_both_answered():
    peer = World().connect()
    peer.attach()
    for channel in ("room", "never"):
        assert peer.send(action=Action.DETACH, channel=channel) == [
            {"action": Action.DETACHED, "channel": channel}
        ]


def test_rtc8_a_token_of_another_client_or_app_ends_the_connection():
    world = World()
    token = world.hub.authenticator.issue_token(
        "app.key", {"clientId": "bob"}, world.hub.authenticator.by_key("app.key:secret-of-the-key")
    )["token"]
    identity = world.hub.authenticator.by_key("app.key:secret-of-the-key")
    ann = type(world.connect())(world.hub.connect(identity, {"clientId": "ann"}, lambda: None))
    [error] = ann.send(action=Action.AUTH, auth={"accessToken": token})
    assert (error["action"], error["error"]["code"]) == (Action.ERROR, 40102)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FILTERED = "[filter=bmFtZQ==]"  # `name`
CHANNELS = st.sampled_from(
    [
        "room",
        "mutable:a",
        "[?rewind=1]room",
        ":bad",
        "persisted:x",
        FILTERED + "room",
        FILTERED + "mutable:a",
        "[filter=x]room",
    ]
)
PARAMS = st.sampled_from(["rewind", "rewindLimit", "modes", "delta"])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.sampled_from(["a:0", "a:1", "b"]),
            "name": st.text(max_size=5) | ANY,
            "data": st.text(max_size=20) | ANY,
            "action": st.integers(-1, 6),
            "serial": st.text(max_size=5),
            "extras": ANY,
            "encoding": st.sampled_from(["json", "base64", "utf-8/base64"]),
            "clientId": st.sampled_from(["ann", "*", ""]),
            "version": ANY,
        },
    ),
    max_size=3,
)
FRAMES = st.fixed_dictionaries(
    {"action": st.sampled_from(list(Action)) | st.integers(-5, 40)},
    optional={
        "channel": CHANNELS | ANY,
        "channelSerial": st.text(max_size=30) | ANY,
        "flags": st.integers(0, 2**26) | ANY,
        "msgSerial": st.integers(0, 5) | ANY,
        "messages": MESSAGES | ANY,
        "presence": MESSAGES | ANY,
        "params": st.dictionaries(PARAMS, ANY | st.just("vcdiff")) | ANY,
        "auth": ANY,
        "id": ANY,
    },
)


@given(st.lists(FRAMES, max_size=12), st.sampled_from(Format))
@settings(max_examples=300, deadline=None)
def test_frames_of_any_kind_are_answered_and_never_raise(frames, form):
    world = World()
    peer = world.connect(form)
    for frame in frames:
        data = pack(frame, form)
        peer.connection.receive(data.decode() if form is Format.JSON else data)
        if peer.connection.closing:
            peer = world.connect(form)
    world.pass_ms(500)
    reader = world.connect()
    reader.attach("room", params={"rewind": "100"})
    world.connect().publish({"data": "still alive"}, channel="room")
    assert texts(reader.take())[-1] == "still alive"


class Conversation(RuleBasedStateMachine):
    """Readers that attach, leave, are cut and resume, and a writer: none misses or repeats a message."""

    @initialize()
    def begin(self):
        self.world = World()
        self.writer = self.world.connect()
        self.reader = self.world.connect()
        self.sent, self.got, self.position = [], [], None
        self.take(self.reader.attach())

    def take(self, frames):
        for frame in frames:
            self.got += texts([frame])
            self.position = frame.get("channelSerial", self.position)

    @rule(count=st.integers(1, 3))
    def publish(self, count):
        items = [str(len(self.sent) + n) for n in range(count)]
        self.sent += items
        self.writer.publish(*[{"data": item} for item in items])

    @rule()
    def read(self):
        self.take(self.reader.take())

    @rule(lost=st.booleans())
    def cut(self, lost):
        if not lost:
            self.take(self.reader.take())
        connection = self.reader.connection
        connection.lose(self.world.now_ms)
        self.world.pass_ms(100)
        self.reader = self.world.connect(resume=connection.connection_key)
        frames = self.reader.attach(channelSerial=self.position)
        assert "error" not in frames[0]
        self.take(frames)

    @rule()
    def attach_again(self):
        self.take(self.reader.attach(channelSerial=self.position))

    @rule(ms=st.integers(0, 1000))
    def wait(self, ms):
        self.world.pass_ms(ms)

    @invariant()
    def nothing_is_missed_and_nothing_comes_twice(self):
        if not hasattr(self, "reader"):
            return
        self.take(self.reader.take())
        assert self.got == self.sent


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

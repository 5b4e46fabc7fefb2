from __future__ import annotations

import pytest

from channel_server.worlds import World, texts
from localably.errors import RefusedError
from localably.frames import Action


def test_rtn23_quiet_connections_get_a_heartbeat_and_others_do_not():
    world = World()
    peer = world.connect()
    world.hub.beat()
    world.pass_ms(4999)
    world.hub.beat()
    assert peer.take() == []
    world.pass_ms(1)
    world.hub.beat()
    assert peer.take() == [{"action": Action.HEARTBEAT}]
    peer.send(action=Action.HEARTBEAT)
    world.hub.beat()
    assert peer.take() == []


def test_rtn23_a_client_chooses_how_long_the_server_may_be_silent():
    world = World()
    peer = world.connect(heartbeatInterval="60000")
    assert peer.connected["connectionDetails"]["maxIdleInterval"] == 60_000
    world.hub.beat()
    world.pass_ms(19_999)
    world.hub.beat()
    assert peer.take() == []
    world.pass_ms(1)
    world.hub.beat()
    assert peer.take() == [{"action": Action.HEARTBEAT}]
    for wrong in ("4999", "x", "1800001"):
        with pytest.raises(RefusedError, match="heartbeatInterval must be 5000 to 1800000"):
            world.connect(heartbeatInterval=wrong)


@pytest.mark.parametrize("asked", [None, "0", "40000"])
def test_members_stay_present_for_as_long_as_their_client_asked(asked):
    world = World()
    query = {} if asked is None else {"remainPresentFor": asked}
    member = world.connect(clientId="ann", **query)
    member.attach()
    presence = [{"action": 2, "clientId": "ann"}]
    member.send(action=Action.PRESENCE, channel="room", msgSerial=0, presence=presence)
    member.connection.lose(world.now_ms)
    stays_ms = 15_000 if asked is None else int(asked)
    world.pass_ms(stays_ms)
    assert len(world.channel().members) == 1
    world.pass_ms(1)
    assert len(world.channel().members) == 0


def test_a_leave_made_by_the_server_has_an_id_that_is_not_of_the_connection():
    world = World()
    reader, member = world.connect(), world.connect(clientId="ann")
    reader.attach()
    member.attach()
    presence = [{"action": 2, "clientId": "ann"}]
    member.send(action=Action.PRESENCE, channel="room", msgSerial=0, presence=presence)
    reader.take()
    member.send(action=Action.CLOSE)
    [left] = [m for frame in reader.take() for m in frame["presence"]]
    assert (left["action"], left["clientId"]) == (3, "ann")
    assert not left["id"].startswith(left["connectionId"])  # RTP2b1: compared by time


def test_a_gap_is_reported_once_until_a_message_is_delivered_again():
    world = World()
    reader, writer = world.connect(), world.connect()
    reader.attach()
    with world.hub.faults.on("drop_deliveries", nth=[1, 2, 3, 5]) as fault:
        for number in range(1, 7):
            writer.publish({"data": str(number)})
    frames = reader.take()
    assert [f["error"]["code"] if "error" in f else texts([f])[0] for f in frames] == [
        80020, "4", 80020, "6",
    ]  # fmt: skip
    assert fault.fired == 4


def test_an_expired_token_disconnects_once_and_the_connection_can_be_resumed():
    world = World()
    authenticator = world.hub.authenticator
    request = {"ttl": 60_000}
    token = authenticator.issue_token(
        "app.key", request, authenticator.by_key("app.key:secret-of-the-key")
    )
    identity = authenticator.by_token(token["token"])
    connection = world.hub.connect(identity, {}, lambda: None)
    peer = type(world.connect())(connection)
    world.pass_ms(29_000)
    assert peer.take() == []
    world.pass_ms(2000)
    assert peer.take() == [{"action": Action.AUTH}]
    world.pass_ms(1000)
    assert peer.take() == [], "asked once"
    world.pass_ms(30_000)
    [told] = peer.take()
    assert (told["action"], told["error"]["code"]) == (Action.DISCONNECTED, 40142)
    world.pass_ms(1000)
    assert peer.take() == []
    assert connection.connection_id in world.hub.connections


def test_ten_thousand_channels_come_and_go():
    world = World(connection_state_ttl_s=10)
    peer = world.connect()
    for number in range(10_000):
        peer.attach(f"c{number}")
    assert len(world.hub.channels()) == 10_000
    peer.send(action=Action.CLOSE)
    world.pass_ms(1)
    world.pass_ms(11_000)
    assert world.hub.channels() == []


def test_a_restart_drops_connections_and_channels_without_persistence():
    world = World()
    peer = world.connect()
    peer.attach()
    peer.publish({"data": "x"})
    key = peer.connection.connection_key
    world.pass_ms(10)
    world.hub.restart()
    again = world.connect(resume=key)
    assert again.connected["error"]["code"] == 80008
    [attached] = again.attach(channelSerial="01700000000000-005@abc")
    assert attached["error"]["code"] == 90003


def test_deleting_an_app_removes_its_connections_and_channels():
    world = World()
    peer = world.connect()
    peer.attach()
    world.hub.drop_app("app")
    assert peer.take()[0]["error"]["code"] == 40400
    assert not world.hub.apps
    assert not world.hub.channels()


def test_a_released_channel_continues_after_its_old_position():
    world = World(retention_s=5, connection_state_ttl_s=5)
    writer = world.connect()
    [ack] = writer.publish({"data": "old"})
    position = ack["res"][0]["serials"][0].partition(":")[0]
    for _ in range(4):
        world.pass_ms(5001)
    assert world.hub.channels() == []
    frames = world.connect().attach(channelSerial=position)
    assert frames[0]["error"]["code"] == 90003
    assert texts(frames) == []

from __future__ import annotations

from channel_server.worlds import World, texts
from localably.frames import Action


def test_rtn23_quiet_connections_get_a_heartbeat_and_others_do_not():
    world = World()
    peer = world.connect()
    world.hub.beat()
    assert peer.take() == []
    world.hub.beat()
    assert peer.take() == [{"action": Action.HEARTBEAT}]
    world.hub.beat()
    peer.send(action=Action.HEARTBEAT)
    world.hub.beat()
    assert peer.take() == []


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

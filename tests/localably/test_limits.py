"""D:platform/pricing/limits."""

from __future__ import annotations

from channel_server.worlds import World
from localably.frames import Action
from localably.limits import Rate


def test_a_rate_admits_its_number_a_second_and_refills():
    rate = Rate(50)
    assert [rate.takes(10_000) for _ in range(51)] == [True] * 50 + [False]
    assert [rate.takes(10_020) for _ in range(2)] == [True, False]
    assert not rate.takes(9_000), "a clock that goes back fills nothing"


def codes(answers):
    return [
        a.get("error", {}).get("code") for a in answers if a["action"] in (Action.ACK, Action.NACK)
    ]


def test_42911_a_connection_may_publish_fifty_a_second():
    world = World(enforce_limits=True, channel_rate_per_s=1000)
    peer = world.connect()
    answers = [peer.publish({"data": "x"}, channel=f"c{n % 3}")[0] for n in range(60)]
    assert codes(answers) == [None] * 50 + [42911] * 10
    world.pass_ms(1000)
    assert codes(peer.publish({"data": "x"})) == [None]


def test_42913_a_channel_accepts_fifty_a_second_in_total():
    world = World(enforce_limits=True)
    peers = [world.connect() for _ in range(3)]
    answers = [peers[n % 3].publish({"data": "x"})[0] for n in range(60)]
    assert codes(answers) == [None] * 50 + [42913] * 10


def test_42913_publishes_over_rest_and_over_connections_share_the_rate_of_a_channel():
    world = World(enforce_limits=True)
    for _ in range(40):
        world.hub.check_rates("app", "room")  # as REST does
    answers = [world.connect().publish({"data": "x"})[0] for _ in range(12)]
    assert codes(answers) == [None] * 10 + [42913] * 2


def test_80020_deliveries_above_the_rate_are_dropped_and_reported():
    world = World(enforce_limits=True)
    reader = world.connect()
    reader.attach("one")
    reader.attach("two")
    writers = [world.connect(), world.connect()]
    for number in range(80):
        writers[number % 2].publish({"data": "x"}, channel=("one", "two")[number % 2])
    frames = reader.take()
    assert sum(f["action"] == Action.MESSAGE for f in frames) == 50
    told = [f for f in frames if f["action"] == Action.ATTACHED]
    assert {f["error"]["code"] for f in told} == {80020}


def test_90021_a_connection_may_attach_to_two_hundred_channels():
    peer = World(enforce_limits=True).connect()
    answers = [peer.attach(f"c{n}")[0] for n in range(201)]
    assert {a["action"] for a in answers[:200]} == {Action.ATTACHED}
    assert answers[200]["error"]["code"] == 90021


def test_without_the_fault_nothing_is_limited():
    world = World()
    peer = world.connect()
    assert codes([peer.publish({"data": "x"})[0] for _ in range(200)]) == [None] * 200
    limits = world.hub.faults.set("enforce_limits")
    answers = codes([peer.publish({"data": "x"})[0] for _ in range(60)])
    assert 42911 in answers
    assert limits.fired == len(answers) - answers.count(None)


def test_attachments_and_deliveries_above_a_limit_are_counted_as_well():
    world = World()
    limits = world.hub.faults.set("enforce_limits")
    reader = world.connect()
    answers = [reader.attach(f"c{n}")[0] for n in range(201)]
    assert (answers[200]["error"]["code"], limits.fired) == (90021, 1)
    writers = [world.connect(), world.connect()]
    published = [writers[n % 2].publish({"data": "x"}, channel=f"c{n % 2}")[0] for n in range(80)]
    assert codes(published) == [None] * 80
    frames = reader.take()
    assert limits.fired == 1 + 80 - sum(f["action"] == Action.MESSAGE for f in frames)

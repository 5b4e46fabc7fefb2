from __future__ import annotations

import pytest

from channel_server.worlds import World
from localably.errors import RefusedError
from localably.frames import Action, Flag
from localably.inbound import rollup_window_ms


async def test_tm2h_rest_publishes_on_behalf_of_a_connection(js):
    assert await js("on_behalf") == {
        "connection": True,
        "clientId": "ann",
        "wrong": {"code": 40006, "statusCode": 400},
    }


def test_a_publish_needs_no_attachment_but_an_attachment_without_the_mode_forbids_it():
    peer = World().connect()
    assert peer.publish({"data": "x"})[0]["action"] == Action.ACK
    peer.attach(flags=int(Flag.SUBSCRIBE))
    assert peer.publish({"data": "x"})[0]["error"]["code"] == 40160


def test_the_fault_refuses_the_nth_publish_and_not_the_next():
    world = World()
    world.hub.faults.set("refuse_publish", nth=2, code=42913)
    peer = world.connect()
    answers = [peer.publish({"data": str(n)})[0] for n in range(3)]
    assert [a.get("error", {}).get("code") for a in answers] == [None, 42913, None]
    assert [m.fields["data"] for m in world.channel().log._by_serial.values()] == ["0", "2"]


def test_the_fault_omit_serials_removes_serials_from_messages():
    world = World()
    world.hub.faults.set("omit_serials")
    reader = world.connect()
    reader.attach()
    world.connect().publish({"data": "x"})
    [delivery] = reader.take()
    assert not {"serial", "version"} & delivery["messages"][0].keys()
    assert delivery["channelSerial"]


@pytest.mark.parametrize(("text", "window_ms"), [(None, 40), ("0", 0), ("500", 500)])
def test_the_rollup_window_is_forty_milliseconds_by_default(text, window_ms):
    assert rollup_window_ms(text) == window_ms


@pytest.mark.parametrize("text", ["", "501", "-1", "x", "9" * 30])
def test_a_rollup_window_out_of_range_is_refused(text):
    with pytest.raises(RefusedError):
        rollup_window_ms(text)

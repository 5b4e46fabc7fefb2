from __future__ import annotations

from localably.acks import RecentAcks


def test_a_resent_frame_gets_the_same_answer_but_another_frame_with_its_serial_does_not():
    acks = RecentAcks()
    acks.add(0, 11, {"res": ["first"]})
    assert acks.find(0, 11) == {"res": ["first"]}
    assert acks.find(0, 12) is None
    acks.add(0, 12, {"res": ["second"]})
    assert acks.find(0, 12) == {"res": ["second"]}


def test_only_the_newest_thousand_are_kept():
    acks = RecentAcks()
    for serial in range(1500):
        acks.add(serial, serial, {})
    assert acks.find(499, 499) is None
    assert acks.find(500, 500) == {}


async def test_rtn19a_a_publish_whose_ack_was_lost_is_kept_once_and_acknowledged(js):
    seen = await js("publishes_while_cut")
    assert seen["data"] == ["once"]
    assert seen["acked"] == seen["kept"]

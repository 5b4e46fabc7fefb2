from __future__ import annotations

import pytest

from localably.errors import RefusedError
from localably.faults import KNOWN, Faults


def pattern(asked="room", **parameters):
    faults = Faults()
    faults.set("refuse_publish", **parameters)
    return "".join("x" if faults.now("refuse_publish", asked) else "." for _ in range(8))


@pytest.mark.parametrize(
    ("parameters", "fires"),
    [
        ({}, "xxxxxxxx"),
        ({"nth": 3}, "..x....."),
        ({"nth": [1, 4]}, "x..x...."),
        ({"every": 3}, "..x..x.."),
        ({"count": 2}, "xx......"),
        ({"after": 5}, ".....xxx"),
        ({"after": 2, "nth": 2}, "...x...."),
        ({"share": 0.0}, "........"),
        ({"share": 1.0}, "xxxxxxxx"),
    ],
)
@pytest.mark.faults_may_not_fire
def test_a_fault_fires_according_to_its_parameters(parameters, fires):
    assert pattern(**parameters) == fires


def test_a_share_is_the_same_each_time_for_one_seed():
    assert pattern(share=0.5, seed=1) == pattern(share=0.5, seed=1) != pattern(share=0.5, seed=2)


@pytest.mark.faults_may_not_fire
def test_a_fault_of_one_channel_does_not_affect_others():
    assert pattern("a", channel="a") == "xxxxxxxx"
    assert pattern("b", channel="a") == "........"
    assert pattern("ai:b", channel="ai:*") == "xxxxxxxx"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("no_such", {}), ("freeze", {"no": 1}), ("freeze", {"nth": "1"}), ("freeze", {"every": 0})],
)
def test_an_invalid_fault_is_refused(name, parameters):
    with pytest.raises(RefusedError) as refused:
        Faults().set(name, **parameters)
    assert refused.value.code == 40000


@pytest.mark.faults_may_not_fire
def test_a_block_switches_a_fault_off_again_also_when_it_fails():
    faults = Faults()

    def fails():
        with faults.on("freeze") as fault:
            assert faults.is_on("freeze")
            raise KeyError(fault.name)

    with pytest.raises(KeyError):
        fails()
    assert not faults.is_on("freeze")


def test_the_listing_has_every_fault_and_its_counts():
    faults = Faults()
    faults.set("freeze", count=1)
    faults.now("freeze")
    listing = faults.listing()
    assert set(listing) == set(KNOWN)
    assert listing["freeze"].items() >= {"on": True, "asked": 1, "fired": 1}.items()
    assert listing["lose_acks"]["on"] is False
    assert "fired" not in listing["lose_acks"]


def test_the_counts_stay_until_a_fault_is_switched_on_again():
    faults = Faults()
    with faults.on("lose_acks"):
        faults.now("lose_acks")
    off = faults.listing()["lose_acks"]
    assert off.items() >= {"on": False, "asked": 1, "fired": 1}.items()
    assert faults.now("lose_acks") is None
    faults.set("lose_acks", count=0)
    faults.now("lose_acks")
    assert faults.listing()["lose_acks"].items() >= {"on": True, "asked": 1, "fired": 0}.items()


def test_a_state_counts_its_effects_while_it_is_on():
    faults = Faults()
    faults.count("freeze")
    with faults.on("freeze") as fault:
        faults.count("freeze")
    assert (fault.asked, fault.fired) == (1, 1)


async def test_80020_a_dropped_delivery_is_reported_as_a_discontinuity(js):
    seen = await js("dropped")
    assert seen["data"] == ["a", "c"]
    assert seen["update"] == {"resumed": False, "reason": {"code": 80020, "statusCode": 400}}


@pytest.mark.parametrize("code", [90008, 40024])
async def test_history_until_attach_may_be_refused(js, code):
    seen = await js("until_attach_refused", code=code)
    assert seen["refused"] == {"code": code, "statusCode": 400}
    assert seen["plain"] == 0

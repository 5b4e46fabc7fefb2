"""Turns to publish: spread over connections, within the rates, released when they are not used."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing

import pytest

from ably_channel import opened, until
from rehydrate.ably import connection_slots as module
from rehydrate.errors import ChannelUnavailable
from rehydrate.ports import Outgoing

C = "ai:conv"


def token(text, *, run="i"):
    return Outgoing("token", str(text), f"{run}-{text}")


def connections(server):
    return sum(one.lost_ms is None for one in server.hub.connections.values())


async def stored(log, channel=C):
    async with aclosing(log.history(channel, forwards=True)) as pages:
        return [m.data for page in [page async for page in pages] for m in page]


def is_forgotten(log):
    slots = log._slots
    return not slots._channels and {slot.load for slot in slots._slots} <= {0}


async def test_channels_share_a_connection_up_to_the_turns_that_its_rate_allows(server):
    async with opened(server, publish_rate=50) as log:
        with ExitStack() as stack:
            for n in range(17):
                stack.enter_context(log.reserve(f"ai:{n}"))
            acks = [log.publish(f"ai:{n}", [token(n)]) for n in range(17)]
            assert all([await ack for ack in acks])
            assert len(log._slots) == connections(server) == 3  # 8 channels each
        assert is_forgotten(log)


async def test_a_steady_publisher_has_room_reserved_on_its_connection(server):
    async with opened(server, publish_rate=50) as log:
        slots = log._slots
        with (
            log.reserve("a", steady_per_s=25),
            log.reserve("b", steady_per_s=25),
            log.reserve("c"),
            log.reserve("d", steady_per_s=50),
            log.reserve("a", steady_per_s=25),
        ):
            places = [slots._slots.index(slots._channels[name].slot) for name in "abcd"]
            assert places == [0, 1, 0, 2]
        assert is_forgotten(log)


async def test_an_unused_connection_closes_except_the_first(server):
    async with opened(server, publish_rate=50) as log:
        log._slots._check_every_s = 0.3
        with ExitStack() as stack:
            for n in range(4):
                stack.enter_context(log.reserve(f"ai:{n}", steady_per_s=50))
            acks = [log.publish(f"ai:{n}", [token(n)]) for n in range(4)]
            assert all([await ack for ack in acks])
            assert len(log._slots) == connections(server) == 4
        await until(lambda: len(log._slots) == 1 and connections(server) == 1)
        assert await log.publish("ai:3", [token("again")])


async def test_a_connection_in_use_does_not_close(server):
    async with opened(server, publish_rate=50) as log:
        log._slots._check_every_s = 0.2
        with log.reserve("ai:first", steady_per_s=50), log.reserve("ai:busy", steady_per_s=50):
            for n in range(10):
                await log.publish("ai:busy", [token(n)])
                await asyncio.sleep(0.1)
            assert len(log._slots) == 2
            assert connections(server) == 1  # the first slot was never used


async def test_a_closed_channel_log_publishes_nothing(log):
    await log.close()
    for channel in ("ai:c", "ai:d"):
        with pytest.raises(ChannelUnavailable, match="closed"):
            await log.publish(channel, [token("x")])


async def test_publishes_wait_for_the_rate_and_keep_their_order(server):
    async with opened(server, publish_rate=20) as log:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        acks = [log.publish(C, [token(n)]) for n in range(30)]
        await asyncio.gather(*acks)
        assert loop.time() - began_s >= 1.2  # 2 at once, then 19 a second
        assert await stored(log) == [str(n) for n in range(30)]


async def test_a_batch_is_made_when_it_is_sent(server):
    async with opened(server, publish_rate=2) as log:
        written = ["a"]

        def take():
            taken, written[:] = "".join(written), []
            return [Outgoing("token", taken, f"b-{taken}")]

        first, waiting = log.publish(C, [token("first")]), log.publish(C, take)
        written += ["b", "c"]
        await asyncio.gather(first, waiting)
        assert await stored(log) == ["first", "abc"]


async def test_a_batch_without_messages_publishes_nothing_and_uses_no_turn(server):
    async with opened(server, publish_rate=0.1) as log:
        assert list(await log.publish(C, list)) == []
        await asyncio.wait_for(log.publish(C, [token("now")]), 8)
        assert await stored(log) == ["now"]
        assert is_forgotten(log)


async def test_a_batch_that_fails_to_be_made_fails_alone(log):
    def broken():
        raise RuntimeError("a bug")

    failed, sent = log.publish(C, broken), log.publish(C, [token("next")])
    with pytest.raises(RuntimeError):
        await failed
    assert await sent


async def test_channels_of_one_connection_take_turns(server):
    async with opened(server, publish_rate=30) as log:
        acks = [log.publish("ai:a", [token(n)]) for n in range(12)]
        last = log.publish("ai:b", [token("b")])
        await last
        assert sum(ack.done() for ack in acks) < 12
        await asyncio.gather(*acks)


async def test_at_most_the_window_is_unacknowledged_and_the_rest_waits(server):
    async with opened(server, publishes_in_flight=3) as log:
        await log.publish(C, [token("first")])
        server.faults.set("lose_acks")
        sent = []

        def take(n):
            sent.append(n)
            return [token(n)]

        acks = [log.publish(C, lambda n=n: take(n)) for n in range(5)]
        await until(lambda: server.faults.listing()["lose_acks"]["fired"] == 3)
        assert sent == [0, 1, 2]
        server.faults.clear()
        server.cut()
        assert all([await ack for ack in acks])
        assert await stored(log) == ["first", *"01234"]


@pytest.mark.parametrize("ready_made", [True, False])
async def test_a_publish_given_up_while_it_waits_releases_its_channel_and_slot(server, ready_made):
    async with opened(server, publish_rate=0.1) as log:
        await log.publish(C, [token("first")])
        taken = []
        batch = [token("given up")] if ready_made else lambda: taken.append(1) or [token("x")]
        waiting = log.publish(C, batch)
        assert not is_forgotten(log)
        waiting.cancel()
        await asyncio.sleep(0)
        assert is_forgotten(log)
        assert (log._slots._slots[0].open, list(log._slots._slots[0].waiting)) == (0, [])
        assert (await stored(log), taken) == (["first"], [])


async def test_a_publish_given_up_at_its_turn_no_longer_counts(server):
    async with opened(server, publish_rate=5, unacknowledged=2) as log:
        first, second = log.publish(C, [token(1)]), log.publish(C, [token(2)])
        (slot,) = log._slots._slots
        assert slot.open == 2
        second.cancel()
        log._slots._channels[C].rate = log._slots._slots[0].rate = module.RateLimit(0)
        log._slots._take_turns(slot)  # before the cancellation is noticed
        await first
        await until(lambda: slot.open == 0)
        assert await stored(log) == ["1"]


async def test_giving_up_one_publish_keeps_the_others_of_its_channel(server):
    async with opened(server, publish_rate=10) as log:
        acks = [log.publish(C, [token(n)]) for n in range(6)]
        acks[3].cancel()
        await asyncio.gather(*acks[:3], *acks[4:])
        assert await stored(log) == ["0", "1", "2", "4", "5"]
        await until(lambda: is_forgotten(log))


async def test_a_full_connection_delays_batches_and_serves_every_channel_later(server):
    async with opened(server, unacknowledged=4) as log:
        await log.publish(C, [token("first")])
        server.faults.set("lose_acks")
        full = [log.publish(C, [token(n)]) for n in range(4)]
        batches = [log.publish(f"ai:{n}", lambda n=n: [token(n)]) for n in range(3)]
        await until(lambda: server.faults.listing()["lose_acks"]["fired"] == 4)
        assert not any(ack.done() for ack in batches)
        server.faults.clear()
        server.cut()
        assert all([await ack for ack in (*full, *batches)])


async def test_there_are_at_most_so_many_connections(server, monkeypatch):
    monkeypatch.setattr(module, "MAX_SLOTS", 2)
    async with opened(server, publish_rate=50) as log:
        with ExitStack() as stack:
            for n in range(5):
                stack.enter_context(log.reserve(f"ai:{n}", steady_per_s=50))
            acks = [log.publish(f"ai:{n}", [token(n)]) for n in range(5)]
            assert all([await ack for ack in acks])
            assert len(log._slots) == 2


def test_large_publishes_count_as_several():
    def cost(*data):
        return module._cost([Outgoing("token", each, "id") for each in data])

    assert cost("x" * 4_000) == 1.0
    assert cost(*["x"] * 100) == 1.0
    assert 1.9 < cost("x" * 40_000) < 2.1
    assert 2.9 < cost({"text": "語" * 20_000}, "x" * 100) < 7
    assert cost({"text": "short"}) == 1.0

"""Publishing under faults: each message once and in order, or an error that names the outcome."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing

import pytest

from ably_channel import opened, until
from localably import Key, LocalAbly
from rehydrate.ably import sender as sending
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.ports import Outgoing

C = "ai:conv"


def token(n, data=None, run="i"):
    return Outgoing("token", str(n) if data is None else data, f"{run}-{n}")


async def stored(log, channel=C):
    async with aclosing(log.history(channel, forwards=True)) as pages:
        return [m.data for page in [page async for page in pages] for m in page]


async def stream(log, count, *, channel=C, pause_s=0.001):
    """Publish at a model's pace, without waiting for acknowledgements."""
    answers = []
    for n in range(count):
        answers.append(log.publish(channel, [token(n)]))
        await asyncio.sleep(pause_s)
    return answers


async def test_a_refusal_affects_only_the_refused_message(server, log):
    server.faults.set("refuse_publish", nth=18, code=42911)
    answers = [log.publish(C, [token(n)]) for n in range(40)]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    refused = [n for n, each in enumerate(outcomes) if isinstance(each, ChannelRefused)]
    assert refused == [17]
    assert outcomes[17].ably_code == 42911
    assert await stored(log) == [str(n) for n in range(40) if n != 17]


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_lost_connection_causes_no_loss_duplicate_or_reordering(server, log, resumes):
    if not resumes:
        server.faults.set("refuse_resume")
    streaming = asyncio.create_task(stream(log, 400))
    for _ in range(4):
        await asyncio.sleep(0.08)
        server.cut()
    serials = [serial for answer in await streaming for serial in await answer]
    assert await stored(log) == [str(n) for n in range(400)]
    assert len(set(serials)) == 400


async def test_a_restarted_server_receives_every_unacknowledged_message(server, log):
    streaming = asyncio.create_task(stream(log, 200))
    await asyncio.sleep(0.1)
    server.restart()
    assert all([await answer for answer in await streaming])
    got = await stored(log)
    assert got == [str(n) for n in range(200)][-len(got) :]


async def test_a_published_message_without_acknowledgement_is_not_published_twice(server):
    async with opened(server, publishes_in_flight=50) as log:
        await log.publish(C, [token("first")])
        server.faults.set("lose_acks")
        answers = [log.publish(C, [token(n)]) for n in range(50)]
        await until(lambda: server.faults.listing()["lose_acks"]["fired"] >= 50)
        server.faults.clear()
        server.cut()
        assert all([await answer for answer in answers])
        assert await stored(log) == ["first", *(str(n) for n in range(50))]


async def test_a_missing_acknowledgement_fails_within_the_time_limit(server):
    async with opened(server, ack_timeout_s=0.5) as log:
        await log.publish(C, [token("first")])
        server.faults.set("lose_acks", nth=1)
        unlucky, lucky = log.publish(C, [token(1)]), log.publish(C, [token(2)])
        outcomes = await asyncio.gather(unlucky, lucky, return_exceptions=True)
        # the SDK resolves both with the second acknowledgement: serials may be off by one, text not
        assert not isinstance(outcomes[1], Exception)
        server.faults.set("lose_acks")
        with pytest.raises(ChannelUnavailable, match="may have been published"):
            await log.publish(C, [token(3)])
        server.faults.clear()
        assert await log.publish(C, [token(4)])
        assert await stored(log) == ["first", "1", "2", "3", "4"]


async def test_a_frozen_connection_is_replaced_and_nothing_is_lost(server):
    async with opened(server, request_timeout_s=0.5, ack_timeout_s=20) as log:
        await log.publish(C, [token("first")])
        with server.faults.on("freeze"):
            answers = [log.publish(C, [token(n)]) for n in range(20)]
            await asyncio.sleep(1.5)
        assert all(await asyncio.gather(*answers))
        assert await stored(log) == ["first", *(str(n) for n in range(20))]


async def test_a_server_that_comes_back_receives_what_waited(server):
    async with opened(server, ack_timeout_s=20) as log:
        await log.publish(C, [token("first")])
        await server.stop()
        answers = [log.publish(C, [token(n)]) for n in range(20)]
        await asyncio.sleep(0.5)
        await server.start()
        assert all(await asyncio.gather(*answers))
        assert (await stored(log))[-20:] == [str(n) for n in range(20)]


async def test_an_unreachable_server_is_unavailable_within_the_time_limit():
    class Unreachable:
        key = "a.b:" + "c" * 32

    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        Unreachable.port = taken.getsockname()[1]
        async with opened(Unreachable, ack_timeout_s=0.6) as log:
            with pytest.raises(ChannelUnavailable, match="could not be reached") as caught:
                await log.publish(C, [token(1)])
            assert not isinstance(caught.value, ChannelRefused)


async def test_messages_beyond_the_bound_are_refused_at_once_and_the_rest_are_sent(server):
    async with opened(server, unacknowledged=10) as log:
        answers = [log.publish(C, [token(n)]) for n in range(13)]
        assert [answer.done() for answer in answers] == [False] * 10 + [True] * 3
        for answer in answers[10:]:
            with pytest.raises(ChannelUnavailable, match="10 is the limit"):
                await answer
        await asyncio.gather(*answers[:10])
        assert await log.publish(C, [token("after")])
        assert await stored(log) == [*(str(n) for n in range(10)), "after"]


async def test_failed_messages_no_longer_count_towards_the_bound(server):
    async with opened(server, unacknowledged=5, ack_timeout_s=0.5) as log:
        for fault in ("refuse_publish", "lose_acks"):
            with server.faults.on(fault):
                answers = [log.publish(C, [token(n, run=fault)]) for n in range(5)]
                for outcome in await asyncio.gather(*answers, return_exceptions=True):
                    assert isinstance(outcome, ChannelUnavailable)
        assert await asyncio.gather(*[log.publish(C, [token(n, run="ok")]) for n in range(5)])


@pytest.mark.parametrize(
    "data",
    [5, 1.5, object(), {"a": object()}, "\ud800"],
    ids=["int", "float", "?", "{?}", "surrogate"],
)
async def test_unencodable_data_is_refused_and_other_messages_are_sent(log, data):
    first, bad, last = (log.publish(C, [token(n, d)]) for n, d in enumerate(("a", data, "b")))
    with pytest.raises(ChannelRefused):
        await bad
    await asyncio.gather(first, last)
    assert await stored(log) == ["a", "b"]


async def test_ids_of_a_batch_without_the_index_suffix_are_refused(log):
    with pytest.raises(ChannelRefused) as caught:
        await log.publish(C, [token("a"), token("b")])
    assert caught.value.ably_code == 40031


async def test_a_wrong_key_is_refused(server):
    async with opened(server, key=server.key.partition(":")[0] + ":" + "x" * 32) as log:
        with pytest.raises(ChannelRefused):
            await log.publish(C, [token(1)])


async def test_a_key_that_may_not_publish_is_refused():
    key = Key.make(capability='{"*":["history"]}')
    async with LocalAbly(keys=[key]) as server, opened(server) as log:
        with pytest.raises(ChannelRefused) as caught:
            await log.publish(C, [token(1)])
        assert caught.value.ably_code == 40160


async def test_the_client_id_is_on_every_message_and_cannot_be_changed(server):
    async with opened(server, client_id="agent") as log:
        await log.publish(C, [token(1)])
        await log.publish(C, [token(2)._replace(client_id="agent")])
        with pytest.raises(ChannelRefused) as caught:
            await log.publish(C, [token(3)._replace(client_id="ann")])
        assert caught.value.ably_code == 40012
        pages = [page async for page in log.history(C)]
        assert [m.client_id for page in pages for m in page] == ["agent", "agent"]


async def test_closing_waits_for_acknowledgements(server):
    async with opened(server) as log:
        answers = [log.publish(C, [token(n)]) for n in range(100)]
    assert all([await answer for answer in answers])


async def test_closing_has_a_time_limit(server, monkeypatch):
    async with opened(server, ack_timeout_s=60) as log:
        await log.publish(C, [token("first")])
        server.faults.set("lose_acks")
        answer = log.publish(C, [token(1)])
    with pytest.raises(ChannelUnavailable, match="closed"):
        await answer
    with pytest.raises(ChannelUnavailable, match="closed"):
        await log.publish(C, [token(2)])


async def test_unused_channels_are_released(server, log, monkeypatch):
    monkeypatch.setattr(sending, "_CHANNELS_KEPT", 5)
    for n in range(20):
        await log.publish(f"ai:{n}", [token(n)])
    assert list(log._slots._slots[0].sender._channels) == [f"ai:{n}" for n in range(15, 20)]
    assert await log.publish("ai:0", [token("again")])
    assert await stored(log, "ai:0") == ["0", "again"]


async def test_many_channels_keep_their_order_across_a_lost_connection(server, log):
    answers = []
    for n in range(100):
        answers += [log.publish(f"ai:{c}", [token(n, run=f"c{c}")]) for c in range(20)]
        if n in (30, 60):
            server.cut()
        await asyncio.sleep(0.002)
    await asyncio.gather(*answers)
    for c in range(20):
        assert await stored(log, f"ai:{c}") == [str(n) for n in range(100)]


async def test_a_cancelled_acknowledgement_does_not_affect_others(log):
    given_up = log.publish(C, [token(1)])
    given_up.cancel()
    assert await log.publish(C, [token(2)])
    assert await stored(log) == ["1", "2"]

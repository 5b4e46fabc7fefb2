"""Subscriptions under faults: every message once and in order, or a marked discontinuity."""

from __future__ import annotations

import asyncio

import pytest

from ably_channel import ends, opened, until
from localably import Key, LocalAbly
from localably.capability import ServerCapability
from rehydrate.ably.channel_log import AblyChannel
from rehydrate.core.event import UNDECODED
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.ports import BacklogEnd, Discontinuity, Outgoing
from waiting import PATIENCE_S

C = "ai:conv"


def token(n):
    return Outgoing("token", str(n), f"i-{n}")


async def publish(log, *numbers):
    answers = [log.publish(C, [token(n)]) for n in numbers]
    for answer in answers:
        await answer


async def receive(subscription, count, *, within_s=PATIENCE_S):
    """Return the next *count* items of a subscription, without the ends of backlogs."""
    got = []
    async with asyncio.timeout(within_s):
        while len(got) < count:
            item = await anext(subscription)
            got += [] if isinstance(item, BacklogEnd) else [item]
    return got


async def to_discontinuity(subscription):
    """Receive up to and including the next discontinuity."""
    got = await receive(subscription, 1)
    while not isinstance(got[-1], Discontinuity):
        got += await receive(subscription, 1)
    return got


async def up_to(subscription, last):
    """Receive up to the message *last*."""
    got = await receive(subscription, 1)
    while isinstance(got[-1], Discontinuity) or got[-1].data != str(last):
        got += await receive(subscription, 1)
    return got


def attachments(server):
    return sum(len(channel.attachments) for channel in server.hub.channels())


async def test_a_resumed_connection_misses_nothing_and_reports_no_gap(server, log):
    async with log.subscribe(C) as subscription:
        for n in range(60):
            await publish(log, n)
            if n % 20 == 10:
                server.cut(channel=C)
        got = await receive(subscription, 60)
    assert [m.data for m in got] == [str(n) for n in range(60)]


@pytest.mark.parametrize("name", ["rehydrate subscription", "rehydrate channel connection"])
async def test_a_task_that_is_cancelled_from_outside_is_restarted(server, log, name):
    async with log.subscribe(C, rewind="10s") as subscription:
        await publish(log, 0)
        await up_to(subscription, 0)
        killed = [task for task in asyncio.all_tasks() if task.get_name() == name]
        assert killed
        for task in killed:
            task.cancel()
        await asyncio.wait(killed)
        await publish(log, 1)
        await up_to(subscription, 1)
        server.cut(channel=C)
        await publish(log, 2)
        await up_to(subscription, 2)


async def test_idle_is_false_while_messages_wait(server, log):
    async with log.subscribe(C) as subscription:
        assert subscription.idle
        await publish(log, 0, 1)
        await until(lambda: len(subscription._items) == 2)
        idle = []
        for _ in range(2):
            await receive(subscription, 1)
            idle.append(subscription.idle)
    assert idle == [False, True]


async def test_a_new_connection_continues_a_channel_at_the_old_position(server, log):
    server.faults.set("refuse_resume")
    async with log.subscribe(C) as subscription:
        await publish(log, 0, 1)
        server.cut(channel=C)
        await publish(log, 2, 3)
        got = await receive(subscription, 4)
    assert [m.data for m in got] == ["0", "1", "2", "3"]


async def test_a_channel_that_cannot_continue_reports_it_and_overlaps(server, log):
    server.faults.set("refuse_continuity")
    async with log.subscribe(C, rewind="10s") as subscription:
        await publish(log, 0, 1)
        await receive(subscription, 2)
        server.cut(channel=C)
        await publish(log, 2)
        got = await up_to(subscription, 2)
    assert "without resuming" in got[0].reason
    assert [m.data for m in got if not isinstance(m, Discontinuity)] == ["0", "1", "2"]


async def to_backlog_end(subscription):
    """Receive the messages up to the end of the backlog; return their data, and the end."""
    got = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            item = await anext(subscription)
            if isinstance(item, BacklogEnd):
                return got, item
            got.append(item.data)


async def test_without_a_backlog_its_end_comes_first_and_nothing_is_published(server, log):
    async with log.subscribe(C, rewind="10s") as subscription:
        assert await to_backlog_end(subscription) == ([], BacklogEnd(proved=True))
    assert not server.hub.channels()[0].published


async def test_the_end_of_a_late_backlog_is_marked_after_all_of_it(server, log):
    await publish(log, 0, 1)
    with server.faults.on("delay_backlog", ms=500) as late:
        async with log.subscribe(C, rewind="10s") as subscription:
            await publish(log, 2)
            assert late.fired == 1
            assert not await subscription.alive_within(2.0)
            got, end = await to_backlog_end(subscription)
            assert await subscription.alive_within(2.0)
    assert (got[:2], end) == (["0", "1"], BacklogEnd(proved=True))


async def test_an_echo_that_is_refused_is_published_again(server, log):
    await publish(log, 0)
    with server.faults.on("refuse_publish", count=2) as refusal:
        async with log.subscribe(C, rewind="10s") as subscription:
            assert await to_backlog_end(subscription) == (["0"], BacklogEnd(proved=True))
    assert refusal.fired == 2


async def test_echoes_are_not_delivered_not_even_those_of_others(server, log):
    await publish(log, 0)
    async with log.subscribe(C, rewind="10s") as subscription:
        await to_backlog_end(subscription)
        await log.publish(C, [Outgoing("rehydrate.echo", None, "of another process")])
        await publish(log, 1)
        assert [m.data for m in await receive(subscription, 1)] == ["1"]


async def test_a_key_that_may_not_publish_leaves_the_end_open_until_a_message_is_surely_live(
    monkeypatch,
):
    narrow = Key("app", "narrow", "n" * 32, ServerCapability({"*": ["subscribe", "history"]}))
    async with (
        LocalAbly(keys=[Key("app", "whole", "w" * 32), narrow]) as server,
        opened(server, key=narrow.value) as log,
        AblyChannel(server.key, endpoint="127.0.0.1", port=server.port, tls=False) as publisher,
    ):
        await publish(publisher, 0)
        async with log.subscribe(C, rewind="10s") as subscription:
            assert not (await to_backlog_end(subscription))[1].proved
            await publish(publisher, 1)
            await up_to(subscription, 1)
            assert not await subscription.alive_within(2.0)
            monkeypatch.setattr("rehydrate.ably.subscription._CLOCKS_DIFFER_MS", -60_000)
            await publish(publisher, 2)
            assert await to_backlog_end(subscription) == ([], BacklogEnd(proved=True))
            assert await subscription.alive_within(2.0)


async def test_after_a_resume_the_subscription_is_not_up_to_date_before_its_echo(server, log):
    async with log.subscribe(C, rewind="10s") as subscription:
        await to_backlog_end(subscription)
        with server.faults.on("refuse_publish") as refusal:
            server.cut(channel=C)
            await until(lambda: refusal.fired)
            assert not await subscription.alive_within(2.0)
        await to_backlog_end(subscription)
        assert await subscription.alive_within(2.0)


async def test_dropped_deliveries_are_reported_and_delivered_again(server, log):
    async with log.subscribe(C, rewind="10s") as subscription:
        await publish(log, 0)
        await receive(subscription, 1)
        server.faults.set("drop_deliveries", count=2)
        await publish(log, 1, 2)
        got = await up_to(subscription, 2)
    holes = [each for each in got if isinstance(each, Discontinuity)]
    assert "80020" in holes[0].reason
    assert got[-4:] == [holes[-1], *got[-3:]]
    assert [m.data for m in got[-3:]] == ["0", "1", "2"]


async def test_a_dead_connection_is_detected_and_replaced(server):
    async with opened(server, request_timeout_s=0.5, ack_timeout_s=20) as log:
        async with log.subscribe(C, rewind="1m") as subscription:
            await publish(log, 0)
            await receive(subscription, 1)
            with server.faults.on("freeze"):
                discontinuity = (await to_discontinuity(subscription))[-1]
            assert discontinuity.reason
            await publish(log, 1)
            got = await up_to(subscription, 1)
        assert [m.data for m in got if not isinstance(m, Discontinuity)][-2:] == ["0", "1"]


async def test_a_restarted_server_is_attached_again(server):
    async with opened(server, ack_timeout_s=20) as log:
        async with log.subscribe(C, rewind="10s") as subscription:
            await publish(log, 0)
            await receive(subscription, 1)
            await server.stop()
            await asyncio.sleep(0.3)
            await server.start()
            await publish(log, 1)
            got = await up_to(subscription, 1)
        assert isinstance(got[0], Discontinuity) or got[0].data == "1"


async def test_the_attach_point_advances_with_every_attach(server, log):
    async with log.subscribe(C) as subscription:
        first = subscription.attach_serial
        await publish(log, 0)
        server.faults.set("refuse_continuity", count=1)
        server.cut(channel=C)
        await to_discontinuity(subscription)
        assert first is not None
        assert subscription.attach_serial > first


async def test_a_refused_attach_raises(server, log):
    server.faults.set("refuse_attach", code=40160)
    with pytest.raises(ChannelRefused) as caught:
        async with log.subscribe(C):
            raise AssertionError("attached")
    assert caught.value.ably_code == 40160
    server.faults.clear()
    async with log.subscribe(C):
        assert attachments(server) == 1


async def test_an_invalid_rewind_is_refused(log):
    with pytest.raises(ChannelUnavailable):
        async with log.subscribe(C, rewind="yesterday"):
            raise AssertionError("attached")


async def test_a_key_that_may_not_subscribe_is_refused():
    key = Key.make(capability='{"*":["publish"]}')
    async with LocalAbly(keys=[key]) as server, opened(server) as log:
        with pytest.raises(ChannelRefused):
            async with log.subscribe(C):
                raise AssertionError("attached")


async def test_a_silent_server_is_unavailable_within_the_time_limit(server):
    async with opened(server, request_timeout_s=0.5) as log:
        await log.ready()
        with server.faults.on("freeze"), pytest.raises(ChannelUnavailable):
            async with log.subscribe(C):
                raise AssertionError("attached")


async def test_leaving_detaches(server, log):
    async with log.subscribe(C):
        assert attachments(server) == 1
    assert attachments(server) == 0


async def test_leaving_by_an_error_or_a_cancellation_detaches(server, log):
    with pytest.raises(ZeroDivisionError):
        async with log.subscribe(C):
            raise ZeroDivisionError
    assert attachments(server) == 0

    async def follow():
        async with log.subscribe(C) as subscription:
            await anext(subscription)

    task = asyncio.create_task(follow())
    await until(lambda: attachments(server) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert attachments(server) == 0


async def test_leaving_while_disconnected_leaves_no_task_behind(server, log):
    before = asyncio.all_tasks()
    async with log.subscribe(C) as subscription:
        await publish(log, 0)
        await receive(subscription, 1)
        await server.stop()
    await server.start()
    async with log.subscribe(C, rewind="1") as subscription:
        await publish(log, 1)
        await up_to(subscription, 1)
    await log.close()
    await ends(before)


async def test_a_closed_subscription_ends_its_reader(server, log):
    async with log.subscribe(C) as subscription:
        await publish(log, 0)
        await receive(subscription, 1)
        reading = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        await subscription.close()
        with pytest.raises(StopAsyncIteration):
            await reading


async def test_an_attach_that_keeps_being_refused_is_retried_until_it_succeeds(server, log):
    async with log.subscribe(C, rewind="10s") as subscription:
        await publish(log, 0)
        await receive(subscription, 1)
        gap = server.faults.set("refuse_continuity", count=1)
        # the SDK's own re-attach passes, and finds that the channel cannot continue
        refusals = server.faults.set("refuse_attach", after=1, count=3)
        server.cut(channel=C)
        discontinuity = (await to_discontinuity(subscription))[-1]
        assert "40160" in discontinuity.reason
        await until(lambda: (gap.fired, refusals.fired) == (1, 3))
        await publish(log, 1)
        got = await up_to(subscription, 1)
    assert [m.data for m in got if not isinstance(m, Discontinuity)] == ["0", "1"]


async def test_a_thousand_messages_at_once_keep_their_order(log):
    async with log.subscribe(C) as subscription:
        await publish(log, *range(1000))
        got = await receive(subscription, 1000)
    assert [m.data for m in got] == [str(n) for n in range(1000)]


async def test_a_rewind_limited_by_ably_delivers_the_newest_without_a_gap(log):
    await publish(log, *range(150))
    async with log.subscribe(C, rewind="2m") as subscription:
        got = await receive(subscription, 100)
    assert [m.data for m in got] == [str(n) for n in range(50, 150)]


async def test_an_undecodable_message_does_not_end_the_stream(server, log):
    await publish(log, 0)
    async with log.subscribe(C) as subscription:
        await publish(log, 1)
        body = {"name": "token", "data": "{", "encoding": "json"}
        rest = log._requests._rest
        answer = await rest.request("POST", f"/channels/{C}/messages", "5", body=body)
        assert answer.success
        await publish(log, 2)
        got = await up_to(subscription, 2)
    assert [m.data for m in got] == ["1", UNDECODED, "2"]  # the same as in history
    ((*_, bad, last),) = [page async for page in log.history(C)]
    assert (bad.data, last.data) == (UNDECODED, "2")

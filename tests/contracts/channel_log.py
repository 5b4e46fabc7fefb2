"""The contract of the channel ports, independent of the adapter."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import aclosing

import pytest

from rehydrate.core.positions import at_or_before
from rehydrate.errors import ChannelRefused, Unauthorized
from rehydrate.ports import BacklogEnd, Discontinuity, Outgoing
from waiting import PATIENCE_S

HARD_TEXTS = {
    "japanese": "こんにちは、世界。ｶﾅ",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🇯🇵",
    "combining": "e\u0301 o\u0308\u0304 \u0915\u094d\u0937 Z\u0334\u0354\u0353",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u202b\u0627\u0628\u062c\u062f\u202c",
    "controls": "a\tb\nc\r\nd\x00e\x1f\x7f\u2028\ufeff",
    "empty": "",
    "astral": "\U0010ffff\U0001f600",
    "64 KiB": "語" * 21_700,
}


def tokens(count, *, run="r", text="token {} "):
    return [
        Outgoing(
            "token",
            text.format(seq),
            f"{run}-{seq}",
            {"headers": {"responseId": run, "seq": seq, "gen": 1}},
        )
        for seq in range(count)
    ]


async def published(log, channel, outgoing):
    """Publish one by one without waiting in between; return the serials."""
    answers = [log.publish(channel, [each]) for each in outgoing]
    return [serial for answer in answers for serial in await answer]


async def read(log, channel, **how):
    """Return all pages of history."""
    async with aclosing(log.history(channel, **how)) as pages:
        return [page async for page in pages]


async def receive(subscription, count, *, within_s=PATIENCE_S):
    """Return the next *count* items of a subscription, without the ends of backlogs."""
    got = []
    async with asyncio.timeout(within_s):
        while len(got) < count:
            item = await anext(subscription.__aiter__())
            got += [] if isinstance(item, BacklogEnd) else [item]
    return got


class ChannelLogContract:
    """Needs a fixture ``log`` (a ChannelLog), ``channel`` (a new name), ``key`` (the log's)."""

    async def test_publish_returns_before_the_acknowledgement(self, log, channel):
        began = asyncio.get_running_loop().time()
        answers = [log.publish(channel, [each]) for each in tokens(100)]
        assert asyncio.get_running_loop().time() - began < 5
        assert all(not answer.done() for answer in map(asyncio.ensure_future, answers))
        assert len({serial for answer in answers for serial in await answer}) == 100

    async def test_messages_published_without_waiting_stay_in_order(self, log, channel):
        serials = await published(log, channel, tokens(500))
        assert serials == sorted(serials)
        pages = await read(log, channel, forwards=True)
        assert [m.extras["headers"]["seq"] for page in pages for m in page] == list(range(500))
        assert [m.serial for page in pages for m in page] == serials

    async def test_several_messages_of_one_publish_have_a_serial_each(self, log, channel):
        batch = [Outgoing("token", f"t{i}", f"batch:{i}") for i in range(3)]
        serials = await log.publish(channel, batch)
        (page,) = await read(log, channel)
        assert [(m.data, m.serial) for m in page] == list(
            zip(["t0", "t1", "t2"], serials, strict=True)
        )

    async def test_backward_pages_start_at_the_newest_and_are_sorted_oldest_first(
        self, log, channel
    ):
        await published(log, channel, tokens(25))
        pages = await read(log, channel, limit=10)
        seqs = [[m.extras["headers"]["seq"] for m in page] for page in pages]
        assert seqs == [list(range(15, 25)), list(range(5, 15)), list(range(5))]

    async def test_forward_pages_start_at_the_oldest(self, log, channel):
        await published(log, channel, tokens(25))
        pages = await read(log, channel, limit=10, forwards=True)
        seqs = [[m.extras["headers"]["seq"] for m in page] for page in pages]
        assert seqs == [list(range(10)), list(range(10, 20)), list(range(20, 25))]

    async def test_an_unused_channel_has_no_history(self, log, channel):
        assert await read(log, channel) == []

    async def test_since_is_an_inclusive_lower_bound(self, log, channel):
        await published(log, channel, tokens(3))
        await asyncio.sleep(0.05)
        await published(log, channel, tokens(3, run="later"))
        (page,) = await read(log, channel)
        since_ms = page[3].timestamp_ms
        (recent,) = await read(log, channel, since_ms=since_ms)
        assert [m.id for m in recent] == [m.id for m in page if m.timestamp_ms >= since_ms]
        assert [m.id for m in recent] == ["later-0", "later-1", "later-2"]

    async def test_history_until_an_attach_point_stops_there(self, log, channel):
        await published(log, channel, tokens(3))
        async with log.subscribe(channel) as subscription:
            until = subscription.attach_serial
            if until is None:
                pytest.skip("the SDK does not expose the attach point")
            await published(log, channel, tokens(3, run="later"))
            (page,) = await read(log, channel, until=until)
        assert [m.id for m in page] == ["r-0", "r-1", "r-2"]
        assert all(at_or_before(m.serial, until) for m in page)

    async def test_history_until_an_unknown_point_is_plain_history(self, log, channel):
        await published(log, channel, tokens(3))
        (page,) = await read(log, channel, until="00000000000001-000@never:000")
        assert len(page) == 3

    async def test_a_message_has_its_content_and_time(self, log, channel):
        before_ms = time.time_ns() // 1_000_000
        outgoing = Outgoing("token", "x", "id-1", {"headers": {"seq": 0}}, None)
        (serial,) = await log.publish(channel, [outgoing])
        ((message,),) = await read(log, channel)
        assert (message.name, message.data, message.id) == ("token", "x", "id-1")
        assert (message.serial, message.version_serial, message.action) == (serial, serial, 0)
        assert (message.client_id, message.extras) == (None, {"headers": {"seq": 0}})
        assert before_ms - 1_000 <= message.timestamp_ms <= before_ms + 60_000

    async def test_a_message_has_the_client_id_of_its_publisher(self, log, channel):
        await log.publish(channel, [Outgoing("user-input", "hi", "id-1", client_id="ann")])
        ((message,),) = await read(log, channel)
        assert message.client_id == "ann"

    async def test_a_repeated_id_is_stored_once(self, log, channel):
        await published(log, channel, [*tokens(2), *tokens(2)])
        (page,) = await read(log, channel)
        assert [m.id for m in page] == ["r-0", "r-1"]

    @pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS.keys())
    async def test_text_arrives_unchanged(self, log, channel, text):
        async with log.subscribe(channel) as subscription:
            await log.publish(channel, [Outgoing("token", text, "t")])
            (live,) = await receive(subscription, 1)
        ((stored,),) = await read(log, channel)
        assert live.data == stored.data == text

    @pytest.mark.parametrize(
        "data",
        [None, b"\x00\xff\x80", {"promptId": "p", "text": "語"}, [1, 2.5, None, "x"], {}],
        ids=["none", "bytes", "object", "array", "empty object"],
    )
    async def test_data_keep_their_type(self, log, channel, data):
        async with log.subscribe(channel) as subscription:
            await log.publish(channel, [Outgoing("user-input", data, "t")])
            (live,) = await receive(subscription, 1)
        ((stored,),) = await read(log, channel)
        assert live.data == stored.data == data
        assert type(live.data) is type(stored.data) is type(data)

    async def test_live_and_stored_messages_are_equal(self, log, channel):
        async with log.subscribe(channel) as subscription:
            await published(log, channel, [*tokens(20), Outgoing("user-input", {"a": 1}, "p")])
            live = await receive(subscription, 21)
        (stored,) = await read(log, channel)
        assert live == stored

    async def test_a_subscription_receives_later_messages(self, log, channel):
        await published(log, channel, tokens(3))
        async with log.subscribe(channel) as subscription:
            await published(log, channel, tokens(3, run="later"))
            got = await receive(subscription, 3)
        assert [m.id for m in got] == ["later-0", "later-1", "later-2"]

    async def test_a_subscription_with_rewind_also_receives_earlier_messages(self, log, channel):
        await published(log, channel, tokens(5))
        async with log.subscribe(channel, rewind="3") as subscription:
            await published(log, channel, tokens(2, run="later"))
            got = await receive(subscription, 5)
        assert [m.id for m in got] == ["r-2", "r-3", "r-4", "later-0", "later-1"]

    async def test_two_subscriptions_to_a_channel_have_their_own_rewind(self, log, channel):
        await published(log, channel, tokens(5))
        async with (
            log.subscribe(channel, rewind="2") as two,
            log.subscribe(channel, rewind="4") as four,
        ):
            await published(log, channel, tokens(1, run="later"))
            assert [m.id for m in await receive(two, 3)] == ["r-3", "r-4", "later-0"]
            assert len(await receive(four, 5)) == 5

    async def test_a_slow_reader_is_notified_of_dropped_messages_and_overlaps_again(
        self, log, channel
    ):
        async with log.subscribe(channel, rewind="5", capacity=20) as subscription:
            for batch in itertools.count():  # ever further behind: one read for fifty published
                await published(log, channel, tokens(50, run=f"r{batch}"))
                got = await receive(subscription, 1)
                if isinstance(got[0], Discontinuity):
                    break
            newest = tokens(5, run="newest")
            await published(log, channel, newest)
            again, *rewound = await receive(subscription, 6)
        assert isinstance(again, Discontinuity)
        assert [m.id for m in rewound] == [each.id for each in newest]

    async def test_a_rejected_publish_raises_and_the_others_arrive(self, log, channel):
        large = Outgoing("token", "x" * 80_000, "large")
        first, refused, last = (
            log.publish(channel, [each]) for each in (*tokens(1), large, *tokens(1, run="last"))
        )
        with pytest.raises(ChannelRefused) as caught:
            await refused
        assert caught.value.ably_code == 40009
        await first
        await last
        (page,) = await read(log, channel)
        assert [m.id for m in page] == ["r-0", "last-0"]

    async def test_a_message_named_error_is_delivered(self, log, channel):
        names = ["token", "error", "new_listener", "", "all", "\x01", "token"]
        async with log.subscribe(channel) as subscription:
            batch = [Outgoing(name, str(i), f"b:{i}") for i, name in enumerate(names)]
            await log.publish(channel, batch)
            got = await receive(subscription, len(names))
        assert [m.data for m in got] == [str(i) for i in range(len(names))]

    async def test_the_key_has_a_capability(self, log, key):
        capability = await log.key_capability(key)
        assert capability
        assert all(isinstance(each, str) for ops in capability.values() for each in ops)

    async def test_a_key_with_a_wrong_secret_is_rejected(self, log, key):
        with pytest.raises(Unauthorized):
            await log.key_capability(f"{key.partition(':')[0]}:{'x' * 32}")

    @pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", "語", "x\ny"])
    async def test_an_invalid_token_is_rejected(self, log, channel, token):
        with pytest.raises(Unauthorized):
            await log.admits(token, channel)

    async def test_the_adapter_is_ready(self, log):
        await log.ready()

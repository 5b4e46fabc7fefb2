"""Many publishers within Ably's rates, which the channel server enforces in these tests."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from localably import LocalAbly, LocalAblySettings
from participants import settings_for
from rehydrate.ably import connection_slots
from rehydrate.core.codecs import decode_all
from rehydrate.core.event import Event
from rehydrate.errors import BadParameter, ChannelUnavailable, Fenced, TooLarge
from rehydrate.history import History
from rehydrate.permits import PermitExpired
from rehydrate.ports import Outgoing
from rehydrate.publish import publish_queue as module
from rehydrate.publish import response_writer
from rehydrate.publish.publish_queue import outgoing, packed
from waiting import until


@asynccontextmanager
async def opened(database, *, limits=True, **more):
    async with LocalAbly(settings=LocalAblySettings(enforce_limits=limits)) as ably:
        settings = settings_for(
            database,
            ably,
            **more,
        )
        async with History(settings) as history:
            yield ably, history


async def published(history, channel):
    pages = history._channel.history(channel, forwards=True)
    async with aclosing(pages):
        return [message async for page in pages for message in page]


async def has_token(history, channel):
    return "token" in [message.name for message in await published(history, channel)]


async def stream(history, conversation_id, response_id, tokens, *, every_s=0.02):
    async with history.respond(conversation_id, response_id) as response:
        for token in tokens:
            response.write(token)
            await asyncio.sleep(every_s)


async def nothing_is_reserved(history):
    """Wait until neither a channel queue nor a share of a connection is left."""
    slots = history._channel._slots
    await until(
        lambda: (
            not (history.context.publish_queue._channels or slots._channels)
            and not any(slot.load for slot in slots._slots)
        )
    )


def words(response_id, count):
    return [f"{response_id}-{n} " for n in range(count)]


async def test_many_responses_on_one_channel_stay_within_its_rate(database):
    async with opened(database) as (_, history):
        names = [f"r{n}" for n in range(30)]
        await asyncio.gather(*(stream(history, "crowd", name, words(name, 60)) for name in names))
        messages = {m["id"]: m for m in (await history.hydrate("crowd")).messages}
        assert {id_: m["text"] for id_, m in messages.items()} == {
            name: "".join(words(name, 60)) for name in names
        }
        on_channel = await published(history, "ai:crowd")
        assert not [m for m in on_channel if m.name == "response-complete"]
        for name in names:
            own = [event for event in decode_all(on_channel) if event.message_id == name]
            assert [event.seq for event in own] == list(range(len(own)))
            assert "".join(event.text or "" for event in own) == "".join(words(name, 60))


async def test_many_channels_share_as_few_connections_as_their_turns_allow(database):
    async with opened(database) as (_, history):
        names = [f"c{n}" for n in range(25)]
        async with AsyncExitStack() as stack:
            responses = [
                await stack.enter_async_context(history.respond(name, "r")) for name in names
            ]
            for n in range(50):
                for response in responses:
                    response.write(f"{n} ")
                await asyncio.sleep(0.02)
            assert (
                len(history._channel._slots) == 4
            )  # 8 channels have their turns within a fifth of a second
        for name in names:
            on_channel = await published(history, f"ai:{name}")
            assert "".join(m.data for m in on_channel if m.name == "token") == "".join(
                f"{n} " for n in range(50)
            )
            assert not [m for m in on_channel if m.name == "response-complete"]


async def test_without_a_rate_many_responses_are_still_published_together(database, monkeypatch):
    monkeypatch.setattr(connection_slots, "FREE_PER_S", 40)
    async with opened(database, limits=False, publish_rate=0) as (_, history):
        names = [f"r{n}" for n in range(10)]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.gather(*(stream(history, name, "r", words(name, 50)) for name in names))
        took_s = loop.time() - began_s
        on_channels = [await published(history, f"ai:{name}") for name in names]
        assert sum(map(len, on_channels)) <= 40 * (took_s + 1)  # else it would be 520
        for name, on_channel in zip(names, on_channels, strict=True):
            text = "".join(m.data for m in on_channel if m.name == "token")
            assert text == "".join(words(name, 50))
            assert not [m for m in on_channel if m.name == "response-complete"]


async def test_a_batch_has_the_ids_that_ably_requires(database):
    async with opened(database) as (_, history):
        async with history.respond("ids", "r1") as one, history.respond("ids", "r2") as two:
            for n in range(40):
                one.write(f"{n} ")
                two.reason(f"{n} ")
                two.write(f"{n} ")
        batches = {}
        for message in await published(history, "ai:ids"):
            if message.name in ("stop", "response-complete"):
                continue
            base, _, index = message.id.rpartition(":")
            batches.setdefault(base, []).append(int(index))
        assert all(each == list(range(len(each))) for each in batches.values())
        assert max(map(len, batches.values())) > 10
        assert len({re.split("-", base)[0] for base in batches}) == 1


async def test_without_a_rate_each_token_is_a_message_of_its_own(database):
    async with opened(database, limits=False, publish_rate=0) as (_, history):
        async with history.respond("free", "r") as response:
            for n in range(40):
                response.write(f"{n} ")
                while response._writer._unacknowledged:  # noqa: ASYNC110 - text grows while it waits
                    await asyncio.sleep(0.003)
        tokens = [m.data for m in await published(history, "ai:free") if m.name == "token"]
        assert tokens == [f"{n} " for n in range(40)]


async def test_reading_the_text_returns_everything_written(database):
    async with opened(database) as (_, history), history.respond("look", "r") as response:
        for n in range(30):
            response.write(f"{n} ", part=str(n % 2))
            assert sorted(response.text.split()) == sorted(str(k) for k in range(n + 1))


async def test_a_message_too_large_for_a_batch_is_published_by_itself(database):
    async with opened(database) as (_, history):
        large = "語" * 12_000
        async with history.respond("large", "r1") as one, history.respond("large", "r2") as two:
            one.write("a" * 10)
            for _ in range(8):
                two.write(large)
                one.write(large)
            two.tool_call("call", "f", {"x": "y" * 50_000})
            two.write("the end")
        messages = {m["id"]: m for m in (await history.hydrate("large")).messages}
        assert messages["r1"]["text"] == "a" * 10 + large * 8
        assert messages["r2"]["text"] == large * 8 + "the end"
        assert not [
            m for m in await published(history, "ai:large") if m.name == "response-complete"
        ]


async def test_a_refused_publish_is_repaired_before_the_stop(database):
    async with opened(database, limits=False) as (ably, history):
        async with history.respond("refused", "r") as response:
            response.write("one ")
            await until(lambda: has_token(history, "ai:refused"))
            with ably.faults.on("refuse_publish", code=42911) as fault:
                response.write("two ")
                await until(lambda: fault.fired)
            response.write("three")
        names = [m.name for m in await published(history, "ai:refused")]
        assert names == ["start", "token", "token", "response-complete", "stop"]
        (message,) = (await history.hydrate("refused")).messages
        assert (message["text"], message["gaps"]) == ("one two three", [])


async def test_while_ably_is_unreachable_text_merges_and_is_published_afterwards(database):
    async with opened(database, limits=False) as (ably, history):
        async with history.respond("away", "r") as response:
            response.write("before ")
            await until(lambda: has_token(history, "ai:away"))
            await ably.stop()
            for n in range(100):
                response.write(f"{n} ")
                await asyncio.sleep(0.005)
            await ably.start()
        (message,) = (await history.hydrate("away")).messages
        assert message["text"] == "before " + "".join(f"{n} " for n in range(100))


async def test_a_response_has_limits_and_reports_them(database, monkeypatch):
    monkeypatch.setattr(response_writer.content, "MAX_CHARACTERS", 100)
    async with opened(database) as (_, history):
        async with history.respond("bounds", "r1") as response:
            response.write("x" * 100)
            for _ in range(2):
                with pytest.raises(TooLarge):
                    response.write("y")
        monkeypatch.setattr(response_writer.content, "MAX_EVENTS", 3)
        with pytest.raises(TooLarge):  # noqa: PT012 - at whichever write exceeds it
            async with history.respond("bounds", "r2") as response:
                for n in range(50):
                    response.write(str(n))
                    response.reason(str(n))
        messages = {m["id"]: m for m in (await history.hydrate("bounds")).messages}
        assert messages["r1"]["text"] == "x" * 100
        assert (messages["r2"]["status"], messages["r2"]["error"]) == ("failed", "TooLarge")


async def test_values_that_are_not_json_are_refused_at_once(database):
    async with opened(database) as (_, history), history.respond("json", "r") as response:
        with pytest.raises(BadParameter):
            response.tool_call("c", "f", {"x": float("nan")})
        with pytest.raises(BadParameter):
            response.tool_result("c", object())
        with pytest.raises(BadParameter):
            response.finish(usage={1: 2})


async def test_an_ended_response_accepts_nothing(database):
    async with opened(database) as (_, history):
        async with history.respond("over", "r") as response:
            response.write("x")
        with pytest.raises(Fenced):
            response.write("y")


async def test_a_queue_is_kept_while_it_is_used_and_no_longer(database):
    async with opened(database) as (_, history):
        async with history.respond("queue", "r1") as one:
            one.write("x")
            async with history.respond("queue", "r2") as two:
                two.write("y")
                assert list(history.context.publish_queue._channels) == ["ai:queue"]
                assert list(history._channel._slots._channels) == ["ai:queue"]
        await nothing_is_reserved(history)


async def test_posted_publishes_leave_every_other_turn_to_producers(database):
    async with opened(database) as (_, history):
        with history.context.publish_queue.channel("ai:turns") as queue:
            posted = [Event("start", f"x{n}", seq=0, id=f"x{n}") for n in range(60)]
            async with history.respond("turns", "r") as response:
                acks = [queue.post(event) for event in posted]
                response.write("not last")
                await asyncio.gather(*acks)
        messages = await published(history, "ai:turns")
    assert [m.name for m in messages].index("token") < 10
    assert [m.id for m in messages if m.id.startswith("x")] == [event.id for event in posted]


async def test_a_posted_batch_is_one_publish_and_has_the_same_ids_when_repeated(database):
    async with opened(database) as (_, history):
        events = [Event("stop", f"x{n}", seq=0, id=f"x{n}") for n in range(150)]
        with history.context.publish_queue.channel("ai:together") as queue:
            for batch in [*packed(events), *packed(events)]:
                serials = await queue.post_batch(batch)
                assert len({serial.partition(":")[0] for serial in serials}) == 1
        messages = await published(history, "ai:together")
    assert [m.extras["headers"]["responseId"] for m in messages] == [e.message_id for e in events]


@pytest.mark.parametrize("text", ["", "x", "語" * 500, "😀" * 5_000, "\n" * 100])
def test_the_bound_of_the_size_of_a_token_is_neither_too_low_nor_far_too_high(text):
    event = Event("token", "r" * 20, seq=1, text=text)
    assert outgoing(event).size_bytes <= module._max_bytes(event) <= 200 + 4 * (20 + len(text))


def test_packed_lists_fit_one_publish_and_keep_their_order():
    sizes = [10, 40_000, 30_000, 10, 70_000, 10]
    events = [Event("token", "r", seq=n, text="x" * size) for n, size in enumerate(sizes)]
    batches = list(packed(events))
    assert [[event.seq for event in batch] for batch in batches] == [[0, 1], [2, 3], [4], [5]]
    assert list(packed([])) == []


async def test_a_steady_publisher_reserves_room_on_its_connection(database):
    async with opened(database) as (_, history):
        queue, slots = history.context.publish_queue, history._channel._slots
        with (
            queue.channel("a", steady_per_s=25) as a,
            queue.channel("b", steady_per_s=25),
            queue.channel("c"),
            queue.channel("d", steady_per_s=50),
            queue.channel("a", steady_per_s=25) as again,
        ):
            assert again is a
            places = [slots._slots.index(slots._channels[name].slot) for name in "abcd"]
            assert places == [0, 1, 0, 2]
        await nothing_is_reserved(history)


async def test_a_publish_given_up_while_it_waits_releases_its_queue_and_slot(database):
    async with opened(database, publish_rate=0.1) as (_, history):
        with history.context.publish_queue.channel("ai:left") as queue:
            await queue.publish_one(Event("start", "x0", seq=0, id="x0"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await queue.publish_one(Event("start", "x1", seq=0, id="x1"))
        await nothing_is_reserved(history)
        assert [m.id for m in await published(history, "ai:left")] == ["x0"]


async def test_giving_up_one_publish_keeps_those_behind_it(database):
    async with opened(database, publish_rate=10) as (_, history):
        with history.context.publish_queue.channel("ai:left") as queue:
            acks = [queue.post(Event("start", f"x{n}", seq=0, id=f"x{n}")) for n in range(5)]
            acks[2].cancel()
            await asyncio.gather(*acks[:2], *acks[3:])
        await nothing_is_reserved(history)
        assert [m.id for m in await published(history, "ai:left")] == ["x0", "x1", "x3", "x4"]


async def test_a_publish_that_is_not_permitted_at_its_turn_is_refused(database):
    async with opened(database, publish_rate=10) as (_, history):
        permitted = {"x0", "x2"}
        with history.context.publish_queue.channel("ai:permits") as queue:
            acks = [
                queue.post(
                    Event("start", name, seq=0, id=name),
                    is_permitted=lambda name=name: name in permitted,
                )
                for name in ("x0", "x1", "x2", "x3")
            ]
            permitted.add("x3")  # while it waits for its turn
            permitted.discard("x2")
            answers = await asyncio.gather(*acks, return_exceptions=True)
        await nothing_is_reserved(history)
        assert [isinstance(answer, PermitExpired) for answer in answers] == [
            False,
            True,
            True,
            False,
        ]
        assert [m.id for m in await published(history, "ai:permits")] == ["x0", "x3"]


async def test_a_queue_that_is_left_while_a_publish_waits_is_kept_until_it_is_sent(database):
    async with opened(database, publish_rate=10) as (_, history):
        queue_of = history.context.publish_queue.channel
        with queue_of("ai:left") as queue:
            acks = [queue.post(Event("start", f"x{n}", seq=0, id=f"x{n}")) for n in range(4)]
        with queue_of("ai:left") as again:
            assert again is queue
            await again.publish_one(Event("start", "last", seq=0, id="last"))
        await asyncio.gather(*acks)
        await nothing_is_reserved(history)
        ids = [m.id for m in await published(history, "ai:left")]
        assert ids == ["x0", "x1", "x2", "x3", "last"]


async def test_after_closing_everything_that_waits_is_refused(database):
    async with opened(database, publish_rate=1) as (_, history):
        with history.context.publish_queue.channel("ai:closing") as queue:
            acks = [queue.post(Event("start", f"x{n}", seq=0, id=f"x{n}")) for n in range(4)]
            await acks[0]
            await history._channel.close()
            outcomes = await asyncio.gather(*acks[1:], return_exceptions=True)
            assert {type(outcome) for outcome in outcomes[1:]} == {ChannelUnavailable}
        await nothing_is_reserved(history)


async def test_ephemeral_content_is_in_answers_though_not_in_history(database):
    async with opened(database) as (_, history):
        async with history.respond("fleeting", "r", ephemeral=True) as response:
            response.write("seen ")
            await asyncio.sleep(2 * 0.5 + 0.3)
            (message,) = (await history.hydrate("fleeting")).messages
            assert (message["status"], message["text"]) == ("in_progress", "seen ")
            response.write("once")
        assert [m.name for m in await published(history, "ai:fleeting")] == ["start", "stop"]
        await history.catch_up("fleeting")
        (message,) = (await history.hydrate("fleeting")).messages
        assert (message["status"], message["text"], message["gaps"]) == (
            "completed",
            "seen once",
            [],
        )


def test_the_estimated_size_is_never_too_small():
    for text in ("", "x", "語" * 500, "\U0001f600" * 12_000, "\x00\n" * 50):
        event = Event("token", "r" * 256, 9, 2**31, text=text, client_id="語", ephemeral=True)
        assert module._max_bytes(event) >= module.outgoing(event).size_bytes


def test_sizes_are_counted_as_ably_counts_them():
    message = Outgoing("token", "語" * 10, "id", {"headers": {}}, "agent")
    assert message.size_bytes == 5 + 30 + len('{"headers":{}}') + 5

"""Many publishers within Ably's rates, which the channel server enforces here."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from localably import LocalAbly, LocalAblySettings
from rehydrate.core.codecs import decode_all
from rehydrate.core.event import Event
from rehydrate.errors import BadParameter, Fenced, TooLarge
from rehydrate.history import History
from rehydrate.publish import publish_queue as outbox
from rehydrate.publish import response_writer as publication
from rehydrate.publish.publish_queue import packed
from rehydrate.settings import load_settings
from waiting import until


@asynccontextmanager
async def opened(database, *, limits=True, **more):
    async with LocalAbly(settings=LocalAblySettings(enforce_limits=limits)) as ably:
        settings = load_settings(
            database_url=database,
            ably_api_key=ably.key,
            ably_endpoint="127.0.0.1",
            ably_port=ably.port,
            ably_tls=False,
            **more,
        )
        async with History(settings) as history:
            yield ably, history


async def said(history, channel):
    pages = history._channel.history(channel, forwards=True)
    async with aclosing(pages):
        return [message async for page in pages for message in page]


async def token_shown(history, channel):
    return "token" in [message.name for message in await said(history, channel)]


async def stream(history, conversation_id, response_id, tokens, *, every_s=0.02):
    async with history.respond(conversation_id, response_id) as response:
        for token in tokens:
            response.write(token)
            await asyncio.sleep(every_s)


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
        on_channel = await said(history, "ai:crowd")
        assert not [m for m in on_channel if m.name == "response-complete"]
        for name in names:
            own = [event for event in decode_all(on_channel) if event.message_id == name]
            assert [event.seq for event in own] == list(range(len(own)))
            assert "".join(event.text or "" for event in own) == "".join(words(name, 60))


async def test_many_channels_are_spread_over_as_few_connections_as_their_turns_allow(database):
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
            lanes = history._channel._lanes
            assert len(lanes) == 4  # 8 channels have their turns within a fifth of a second
        for name in names:
            on_channel = await said(history, f"ai:{name}")
            assert "".join(m.data for m in on_channel if m.name == "token") == "".join(
                f"{n} " for n in range(50)
            )
            assert not [m for m in on_channel if m.name == "response-complete"]


async def test_without_a_rate_many_responses_still_go_out_together(database, monkeypatch):
    monkeypatch.setattr(outbox, "FREE_PER_S", 40)
    async with opened(database, limits=False, publish_rate=0) as (_, history):
        names = [f"r{n}" for n in range(10)]
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.gather(*(stream(history, name, "r", words(name, 50)) for name in names))
        took_s = loop.time() - began_s
        said_on = [await said(history, f"ai:{name}") for name in names]
        assert sum(map(len, said_on)) <= 40 * (took_s + 1)  # else it would be 520
        for name, on_channel in zip(names, said_on, strict=True):
            text = "".join(m.data for m in on_channel if m.name == "token")
            assert text == "".join(words(name, 50))
            assert not [m for m in on_channel if m.name == "response-complete"]


async def test_what_is_published_together_has_the_ids_that_ably_asks_for(database):
    async with opened(database) as (_, history):
        async with history.respond("ids", "r1") as one, history.respond("ids", "r2") as two:
            for n in range(40):
                one.write(f"{n} ")
                two.reason(f"{n} ")
                two.write(f"{n} ")
        batches = {}
        for message in await said(history, "ai:ids"):
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
                while response._out._unanswered:  # noqa: ASYNC110 - what waits, grows
                    await asyncio.sleep(0.003)
        tokens = [m.data for m in await said(history, "ai:free") if m.name == "token"]
        assert tokens == [f"{n} " for n in range(40)]


async def test_looking_at_the_text_gives_all_that_was_written(database):
    async with opened(database) as (_, history), history.respond("look", "r") as response:
        for n in range(30):
            response.write(f"{n} ", part=str(n % 2))
            assert sorted(response.text.split()) == sorted(str(k) for k in range(n + 1))


async def test_what_is_too_large_to_go_with_others_goes_alone(database):
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
        assert not [m for m in await said(history, "ai:large") if m.name == "response-complete"]


async def test_a_refused_publish_is_repaired_before_the_stop(database):
    async with opened(database, limits=False) as (ably, history):
        async with history.respond("refused", "r") as response:
            response.write("one ")
            await until(lambda: token_shown(history, "ai:refused"))
            with ably.faults.on("refuse_publish", code=42911) as fault:
                response.write("two ")
                await until(lambda: fault.fired)
            response.write("three")
        names = [m.name for m in await said(history, "ai:refused")]
        assert names == ["start", "token", "token", "response-complete", "stop"]
        (message,) = (await history.hydrate("refused")).messages
        assert (message["text"], message["gaps"]) == ("one two three", [])


async def test_while_ably_is_away_text_waits_in_one_piece_and_then_goes_out(database):
    async with opened(database, limits=False) as (ably, history):
        async with history.respond("away", "r") as response:
            response.write("before ")
            await until(lambda: token_shown(history, "ai:away"))
            await ably.stop()
            for n in range(100):
                response.write(f"{n} ")
                await asyncio.sleep(0.005)
            await ably.start()
        (message,) = (await history.hydrate("away")).messages
        assert message["text"] == "before " + "".join(f"{n} " for n in range(100))


async def test_a_response_has_bounds_and_says_so(database, monkeypatch):
    monkeypatch.setattr(publication.extent, "MAX_CHARACTERS", 100)
    async with opened(database) as (_, history):
        async with history.respond("bounds", "r1") as response:
            response.write("x" * 100)
            for _ in range(2):
                with pytest.raises(TooLarge):
                    response.write("y")
        monkeypatch.setattr(publication.extent, "MAX_EVENTS", 3)
        with pytest.raises(TooLarge):  # noqa: PT012 - wherever it has become too many
            async with history.respond("bounds", "r2") as response:
                for n in range(50):
                    response.write(str(n))
                    response.reason(str(n))
        messages = {m["id"]: m for m in (await history.hydrate("bounds")).messages}
        assert messages["r1"]["text"] == "x" * 100
        assert (messages["r2"]["status"], messages["r2"]["error"]) == ("failed", "TooLarge")


async def test_what_json_cannot_say_is_refused_at_once(database):
    async with opened(database) as (_, history), history.respond("json", "r") as response:
        with pytest.raises(BadParameter):
            response.tool_call("c", "f", {"x": float("nan")})
        with pytest.raises(BadParameter):
            response.tool_result("c", object())
        with pytest.raises(BadParameter):
            response.finish(usage={1: 2})


async def test_after_its_end_a_response_takes_nothing(database):
    async with opened(database) as (_, history):
        async with history.respond("over", "r") as response:
            response.write("x")
        with pytest.raises(Fenced):
            response.write("y")


async def test_a_tray_is_kept_while_it_is_needed_and_no_longer(database):
    async with opened(database) as (_, history):
        async with history.respond("tray", "r1") as one:
            one.write("x")
            async with history.respond("tray", "r2") as two:
                two.write("y")
                assert len(history._ctx.publish_queue._trays) == 1
        assert not history._ctx.publish_queue._trays
        assert [lane.trays for lane in history._ctx.publish_queue._lanes] == [0]


async def test_what_goes_alone_leaves_every_other_turn_to_writers(database):
    async with opened(database) as (_, history):
        with history._ctx.publish_queue.tray("ai:turns") as tray:
            alone = [Event("start", f"x{n}", seq=0, id=f"x{n}") for n in range(60)]
            answers = [tray.post(event) for event in alone]
            async with history.respond("turns", "r") as response:
                response.write("not last")
            await asyncio.gather(*answers)
        messages = await said(history, "ai:turns")
    names = [m.name if m.id.startswith("x") else "writer" for m in messages]
    assert names.index("writer") < 50  # it begins once the store has its row
    assert [m.id for m in messages if m.id.startswith("x")] == [event.id for event in alone]


async def test_what_is_said_together_is_one_publish_and_the_same_when_it_is_said_again(database):
    async with opened(database) as (_, history):
        events = [Event("stop", f"x{n}", seq=0, id=f"x{n}") for n in range(150)]
        with history._ctx.publish_queue.tray("ai:together") as tray:
            for together in [*packed(events), *packed(events)]:
                serials = await tray.post_together(together)
                assert len({serial.partition(":")[0] for serial in serials}) == 1
        messages = await said(history, "ai:together")
    assert [m.extras["headers"]["responseId"] for m in messages] == [e.message_id for e in events]


def test_what_is_said_together_fits_one_publish_and_keeps_its_order():
    sizes = [10, 40_000, 30_000, 10, 70_000, 10]
    events = [Event("token", "r", seq=n, text="x" * size) for n, size in enumerate(sizes)]
    batches = list(packed(events))
    assert [[event.seq for event in batch] for batch in batches] == [[0, 1], [2, 3], [4], [5]]
    assert list(packed([])) == []


async def test_who_sends_at_his_own_times_has_room_for_that_on_his_lane(database):
    async with opened(database) as (_, history):
        outbox = history._ctx.publish_queue
        with (
            outbox.tray("a", steady_per_s=25) as a,
            outbox.tray("b", steady_per_s=25) as b,
            outbox.tray("c") as c,
            outbox.tray("d", steady_per_s=50) as d,
            outbox.tray("a", steady_per_s=25) as again,
        ):
            assert again is a
            assert [each.lane.number for each in (a, b, c, d)] == [0, 1, 0, 2]
        assert {lane.trays for lane in outbox._lanes} == {0}


async def test_ephemeral_content_is_not_in_history_and_yet_in_answers(database):
    async with opened(database) as (_, history):
        async with history.respond("fleeting", "r", ephemeral=True) as response:
            response.write("seen ")
            await asyncio.sleep(2 * 0.5 + 0.3)
            (message,) = (await history.hydrate("fleeting")).messages
            assert (message["status"], message["text"]) == ("in_progress", "seen ")
            response.write("once")
        assert [m.name for m in await said(history, "ai:fleeting")] == ["start", "stop"]
        await history.catch_up("fleeting")
        (message,) = (await history.hydrate("fleeting")).messages
        assert (message["status"], message["text"], message["gaps"]) == (
            "completed",
            "seen once",
            [],
        )


def test_what_is_not_counted_is_taken_for_more():
    for text in ("", "x", "語" * 500, "\U0001f600" * 12_000, "\x00\n" * 50):
        event = Event("token", "r" * 256, 9, 2**31, text=text, client_id="語", ephemeral=True)
        assert outbox._most_bytes(event) >= outbox.size_bytes(outbox.outgoing(event))


def test_sizes_are_counted_as_ably_counts_them():
    message = outbox.Outgoing("token", "語" * 10, "id", {"headers": {}}, "agent")
    assert outbox.size_bytes(message) == 5 + 30 + len('{"headers":{}}') + 5

"""9 and S2 of docs/exactness.md: a delta applies only to the chain of its own attachment."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import pytest

from appending import DONE, appender_to
from exactness.viewing import as_sdk
from laws.readers import judge
from laws.worlds import Joiner, Planned, World, posted
from rehydrate.core.client_view import View
from shared_adapters import HookedPort, Latch, until, within


def growing(*said, **more):
    """Return the world of a channel with the messages *said*, one per second."""
    creates = {}
    log = [
        posted(each, 10_000 + 1000 * number, number=number, creates=creates)
        for number, each in enumerate(said)
    ]
    return World(tuple(log), **more)


def letters(text, cell=0):
    return [Planned("response", "A", data=letter, cell=cell) for letter in text]


def wrong_anywhere(world):
    last_ms = 10_000 + 1000 * len(world.log) + 2_500
    joiners = [
        Joiner(way, at_ms, delay_ms)
        for way in (1, 2, 3)
        for at_ms in range(9_000, last_ms, 500)
        for delay_ms in (0, 1000, 2500)
    ]
    return [(joiner, found) for joiner in joiners if (found := judge(world, joiner))]


class Paged(HookedPort):
    """History in pages of one message, with a pause after each."""

    async def history(self, channel, **more):
        async with aclosing(self._port.history(channel, **more | {"limit": 1})) as pages:
            async for page in pages:
                yield page
                await self._call_hook("page")


@pytest.fixture
def grown(chat):
    """A chat on a channel with appends."""
    chat.name = f"mutable:{chat.id}"
    return chat


@asynccontextmanager
async def appending(chat):
    async with appender_to(chat.adapters.server, chat.name) as made:
        yield made


class Test9VersionsAreNotPositions:
    def test_a_delta_that_overlaps_the_answer_is_not_appended_to_it(self):
        said = [*letters("abc"), Planned("response-end", "A")]
        held = frozenset({f"{11_000:014d}-000@s:000"})  # b is delivered with c, as one
        assert wrong_anywhere(growing(*said, held=held)) == []

    def test_the_first_full_update_is_the_base_of_later_deltas_even_if_the_answer_has_it(self):
        said = [*letters("abcdef"), Planned("response-end", "A")]
        for catch_up_s in (11, 13, 15):
            assert wrong_anywhere(growing(*said, catch_ups=(catch_up_s * 1000,))) == []

    def test_each_channel_message_has_its_own_position_in_an_answer(self):
        said = [*letters("a", 0), *letters("b", 1), *letters("c", 0), *letters("d", 1)]
        world = growing(*said, Planned("response-end", "A"), lag_ms=1000)
        assert wrong_anywhere(world) == []

    async def test_pages_read_at_different_times_lose_no_live_append(self, grown):
        """m0 is read and grows; m1 is created and read: the answer's m0 is older than its m1."""
        turning, read = Latch(), Latch()
        latches = iter([turning, read])

        async def at_page():
            if (latch := next(latches, None)) is not None:
                await latch()

        async with appending(grown) as publisher, grown.deliveries() as heard:
            first = await publisher.create("r", "a")
            asking = grown.adapters.spawn(
                grown.hydrate(channel=Paged(grown.channel, page=at_page), until=None)
            )
            await turning.reached()
            await publisher.append(first, "b", rid="r")
            await publisher.create("r", "c")
            turning.open()
            read.open()
            answer = await within(asking)
            view = View({"messages": answer.messages, "reasons": []})
            await publisher.append(first, "d", rid="r", operation=DONE)
            (message,) = answer.messages
            assert message["parts"][0]["text"] == "a"
            await until(lambda: len(heard) >= 4)
            assert all(view.apply(as_sdk(each)) for each in heard)
        (shown,) = view.messages
        assert (shown["text"], shown["status"]) == ("abdc", "completed")


class TestS2CatchUpPageByPage:
    async def test_a_message_that_grows_after_its_page_was_read_is_read_again_by_the_next_run(
        self, grown
    ):
        turning = Latch()
        latches = iter([turning])

        async def at_page():
            if (latch := next(latches, None)) is not None:
                await latch()

        async with appending(grown) as publisher:
            first = await publisher.create("r", "a")
            recording = grown.adapters.spawn(
                grown.catch_up(channel=Paged(grown.channel, page=at_page))
            )
            await turning.reached()
            await publisher.append(first, "b", rid="r")
            await publisher.create("s", "x")
            turning.open()
            await within(recording)
        row = await grown.row()
        assert row.watermark.serial == first
        assert (await grown.shown(until=None))["r"] == ("ab", "in_progress")
        await grown.catch_up()
        assert (await _stored(grown, "r", "s")) == {
            "r": ("ab", "in_progress"),
            "s": ("x", "in_progress"),
        }

    async def test_the_watermark_moves_on_once_all_have_ended_for_longer_than_the_margin(
        self, adapters
    ):
        now = [0]
        with adapters.conversation(clock=lambda: now[0]) as chat:
            chat.name = f"mutable:{chat.id}"
            async with appending(chat) as publisher:
                serial = await publisher.respond("r", "ab", end=False)
                now[0] = int(serial[:14]) + 1_000
                await chat.catch_up()
                assert (await chat.row()).watermark.serial == serial
                await publisher.end("r")
                now[0] += 20_000
                await chat.catch_up()
            watermark = (await chat.row()).watermark
        assert watermark.serial > serial
        assert await _stored(chat, "r") == {"r": ("ab", "completed")}

    async def test_the_store_has_the_latest_version_after_appends_and_after_updates(self, grown):
        async with appending(grown) as publisher:
            serial = await publisher.create("r", "a")
            for letter in "bcd":
                await publisher.append(serial, letter, rid="r")
                await grown.catch_up()
            assert await _stored(grown, "r") == {"r": ("abcd", "in_progress")}
            await publisher.update(serial, "X", rid="r")
            await grown.catch_up()
            await publisher.append(serial, "y", rid="r")
            await grown.catch_up()
            assert await _stored(grown, "r") == {"r": ("Xy", "in_progress")}
            await publisher.append(serial, "z")  # drops the headers with the response id
            await publisher.end("r")
            await grown.catch_up()
        assert await _stored(grown, "r") == {"r": ("Xyz", "completed")}
        (state,) = await grown.store.states(grown.id, {"r"})
        assert [cell.serial for cell in state.versioned.values()] == [serial]
        assert await grown.shown() == {"r": ("Xyz", "completed")}


async def _stored(chat, *ids):
    states = await chat.store.states(chat.id, set(ids))
    return {s.id: ("".join(part["text"] for part in s.parts()), s.status) for s in states}

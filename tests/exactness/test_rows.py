"""7, 8, 10, 11, 12, S13, S14 of docs/exactness.md: several writers of one row."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from exactness.scenes import repair, start, stop, token, world, wrong_anywhere
from laws.memory import MemoryChannel, MemoryStore, memory_context
from rehydrate.core.window import Tombstone, erased_mark
from rehydrate.errors import Conflict, Fenced
from rehydrate.hydrate.hydrate import hydrate
from rehydrate.ports import Conversation
from rehydrate.record.catch_up import catch_up
from rehydrate.record.import_messages import NewMessage
from shared_adapters import HookedPort, Latch, within


class Test7DeadBetweenTheCommitAndTheStop:
    async def test_the_row_is_terminal_and_its_lease_expires_unannounced(self, chat):
        stopping = Latch()

        async def publish():
            channel = HookedPort(chat.channel, stop=stopping)
            async with chat.respond("r", channel=channel) as response:
                response.write("abc")

        publishing = chat.adapters.spawn(publish())
        await stopping.reached()
        assert await chat.stored() == {"r": ("abc", "completed")}
        alive = await chat.lease("r")
        await chat.take_over("r")
        dead = await chat.lease("r")
        stopping.open()
        assert (alive.stop_acked, alive.expired) == (False, False)
        assert (dead.stop_acked, dead.expired) == (False, True)
        await within(publishing)


class Test8TheSweeperKeepsAllText:
    async def test_text_published_before_the_sweepers_stop_is_kept(self, chat):
        zombie = await chat.claimed("r")
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        await chat.publish_message("token", "c", responseId="r", seq=3)
        async with chat.store.locked(chat.id, chat.name) as held:
            await held.fence("r", "sweeper", 30.0)
        assert await chat.stored() == {"r": ("ab", "in_progress")}
        await chat.catch_up()
        assert await chat.stored() == {"r": ("abc", "in_progress")}
        await chat.publish_message("stop", responseId="r", seq=4, gen=1, status="interrupted")
        await chat.publish_message("token", "d", responseId="r", seq=5)
        await chat.catch_up()
        assert await chat.stored() == {"r": ("abc", "interrupted")}
        with pytest.raises(Conflict):
            await zombie.claim("r", None, None)


class Test10ARecorderBesideAPublisherThatFinishes:
    async def test_the_final_row_is_not_undone(self, chat):
        latch = Latch()
        async with chat.respond("r") as response:
            response.write("a")
            await chat.wait_for_history(2)
            recording = chat.adapters.spawn(
                chat.catch_up(store=HookedPort(chat.store, locked=latch))
            )
            await latch.reached()
            response.write("b")
            response.write("c")
        latch.open()
        assert (await within(recording)).moved
        assert await chat.stored() == {"r": ("abc", "completed")}

    async def test_overlapping_chunks_are_trimmed_by_the_seqs_they_contain(self, chat, monkeypatch):
        monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)
        latch, text = Latch(), "abcdefghijklmnopqrst"
        async with chat.respond("r") as response:
            for letter in text[:16]:
                response.write(letter)
            await chat.wait_for_history(17)
            recording = chat.adapters.spawn(
                chat.catch_up(store=HookedPort(chat.store, locked=latch))
            )
            await latch.reached()
            for letter in text[16:]:
                response.write(letter)
            await chat.wait_until_stored("r", text)
            latch.open()
            await within(recording)
            await chat.wait_until_stored("r", text)
        assert await chat.stored() == {"r": (text, "completed")}


class Test11OnlyHistoryIsSaved:
    async def test_a_hydrate_moves_no_watermark_and_creates_no_row(self, chat):
        await chat.publish_message("token", "a", responseId="r")
        await chat.hydrate()
        assert await chat.row() is None
        await chat.catch_up()
        before = await chat.row()
        await chat.publish_message("token", "b", responseId="r")
        await chat.hydrate()
        assert await chat.row() == before
        assert await chat.stored() == {"r": ("a", "in_progress")}


class Test12ErasedStaysErased:
    LOG = (start("A", 11), token("A", 1, 12), stop("A", 2, 13), token("B", 1, 20))

    def context(self):
        store, channel = MemoryStore(), MemoryChannel(world(*self.LOG).log)
        channel.now_ms = store.now_ms = 30_000
        return memory_context(store, channel, lambda: 30_000, retention_ms=10**9)

    def erase(self, store, at_ms, *ids):
        marks = frozenset(erased_mark(id_) for id_ in ids)
        row = store.conversation or Conversation("c", "ai:c", 0)
        store.rows.clear()
        store.conversation = row._replace(tombstone=Tombstone(None, at_ms, marks))

    async def test_neither_a_read_nor_a_recorder_restores_erased_text(self):
        ctx = self.context()
        self.erase(ctx.store, 14_000)
        assert [m["id"] for m in (await hydrate(ctx, "c")).messages] == ["B"]
        await catch_up(ctx, "c")
        assert set(ctx.store.rows) == {"B"}

    async def test_an_erased_open_response_stays_erased_while_it_continues(self):
        ctx = self.context()
        self.erase(ctx.store, 12_000, "A", "B")
        assert (await hydrate(ctx, "c")).messages == []
        await catch_up(ctx, "c")
        assert ctx.store.rows == {}

    async def test_a_recorder_that_read_before_the_erasure_and_commits_after_it_restores_nothing(
        self,
    ):
        ctx, latch = self.context(), Latch()
        store = ctx.store
        slow = replace(ctx, store=HookedPort(store, locked=latch))
        recording = asyncio.ensure_future(catch_up(slow, "c"))
        await latch.reached()
        self.erase(store, 25_000)
        latch.open()
        await within(recording)
        assert store.rows == {}


class TestS13RenamedChannels:
    async def test_the_channel_of_the_row_wins(self, chat):
        await chat.store_messages(NewMessage("old", "assistant", text="x"))
        real, chat.name = chat.name, "ai:by-another-template"
        async with chat.respond("r") as response:
            response.write("y")
        chat.name = real
        assert [name for name, _, _ in await chat.channel_events()] == ["start", "token", "stop"]
        chat.name = "ai:by-another-template"
        recorded = await chat.catch_up()
        assert (recorded.messages, (await chat.row()).channel) == (3, real)

    async def test_two_conversations_on_one_channel_are_refused(self, chat, adapters):
        await chat.store_messages(NewMessage("m", "assistant", text="x"))
        with adapters.conversation() as other:
            other.name = chat.name
            with pytest.raises(Conflict):
                await other.store_messages(NewMessage("m", "assistant", text="y"))


@pytest.mark.usefixtures("simulated_time")
class TestS14TextThatTheChannelNeverCarried:
    def test_a_repair_before_the_stop_shows_it_to_every_reader(self):
        log = (
            start("A", 11),
            token("A", 1, 12),
            token("A", 2, 13),
            repair("A", 2, 14, "final"),
            stop("A", 3, 15),
        )
        assert wrong_anywhere(world(*log)) == []

    async def test_a_fenced_publisher_publishes_no_repair(self, chat):
        with pytest.raises(Fenced):  # noqa: PT012 - its end raises
            async with chat.respond("r") as response:
                response.write("a")
                response.finish(parts=[{"type": "text", "text": "never committed"}])
                await chat.take_over("r")
        assert "response-complete" not in [name for name, _, _ in await chat.channel_events()]
        assert (await chat.shown())["r"] == ("a", "in_progress")

"""The store's contract for writes: atomicity, concurrency, leases and watermarks."""

from __future__ import annotations

import asyncio

import pytest

from contracts.messages import AT_MS, event_of, finished, further, put, response
from rehydrate.core import wire
from rehydrate.core.fold import fold
from rehydrate.core.window import LostInterval, Watermark
from rehydrate.errors import Fenced, NotFound
from waiting import PATIENCE_S


class Together:
    """Atomic writes, and concurrent readers and writers."""

    async def test_a_block_that_raises_writes_nothing(self, store) -> None:
        async def fail() -> None:
            async with store.locked("c", "ai:c") as locked:
                await locked.put([response("m", "text")])
                await locked.move(Watermark("1", AT_MS, AT_MS), None)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert (await store.load("c", limit=1, before=None)).conversation is None

    async def test_a_block_that_is_cancelled_writes_nothing(self, store) -> None:
        inside = asyncio.Event()

        async def hold() -> None:
            async with store.locked("c", "ai:c") as locked:
                await locked.put([response("m", "text")])
                inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(hold())
        await inside.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await put(store, "c", response("n"))
        assert [s.id for s in (await store.load("c", limit=1, before=None)).open] == ["n"]

    async def test_other_open_messages_are_counted_under_the_lock(self, store) -> None:
        await put(store, "c", response("a"), response("b"), response("d"), finished("e", "e"))
        await put(store, "other", response("f"))
        async with store.locked("c", "ai:c") as locked:
            assert await locked.open_beside(["a", "x"], most=10) == 2
            assert await locked.open_beside([], most=2) == 2
            await locked.put([response("g")])
            assert await locked.open_beside([], most=10) == 4

    async def test_a_block_waits_for_the_other_and_reads_its_writes(self, store) -> None:
        await put(store, "c", response("m"))

        async def count(times: int) -> None:
            for _ in range(times):
                async with store.locked("c", "ai:c") as locked:
                    state = (await locked.messages(["m"]))["m"]
                    seq = (state.seq or 0) + 1
                    fold(state, event_of("token", "m", seq, text=f"{seq} "))
                    await locked.put([state])

        await asyncio.gather(*(count(5) for _ in range(4)))
        (read,) = (await store.load("c", limit=1, before=None)).open
        assert wire.message(read)["text"] == "".join(f"{n} " for n in range(1, 21))

    async def test_simultaneous_blocks_may_create_one_conversation(self, store) -> None:
        await asyncio.gather(*(put(store, "c", finished(f"m{n}", f"{n}")) for n in range(8)))
        assert len((await store.load("c", limit=50, before=None)).finished) == 8

    async def test_other_conversations_do_not_wait(self, store) -> None:
        async with store.locked("c", "ai:c"), asyncio.timeout(PATIENCE_S):
            await put(store, "d", response("m"))

    async def test_readers_do_not_wait_and_read_only_committed_writes(self, store) -> None:
        await put(store, "c", response("m", "a"))
        async with store.locked("c", "ai:c") as locked:
            state = (await locked.messages(["m"]))["m"]
            fold(state, event_of("token", "m", 2, text="b"))
            fold(state, event_of("stop", "m", 3))
            await locked.put([state])
            async with asyncio.timeout(PATIENCE_S):
                during = await store.load("c", limit=1, before=None)
        assert (wire.message(during.open[0])["text"], during.finished) == ("a", [])

    async def test_a_load_is_one_snapshot(self, store) -> None:
        """A message is either open or finished, and complete."""
        await put(store, "c", response("m", "0 "))
        stop = asyncio.Event()

        async def write() -> None:
            for seq in range(2, 40):
                await further(store, "c", event_of("token", "m", seq, text=f"{seq} "))
            await further(store, "c", event_of("stop", "m", 40))
            stop.set()

        async def read() -> None:
            while not stop.is_set():
                stored = await store.load("c", limit=5, before=None)
                assert len(stored.open) + len(stored.finished) == 1
                for state in stored.open:
                    assert state.gaps() == []
                    lengths = [tick.length for run in state.runs for tick in run.timings.entries]
                    assert sum(lengths) == len(wire.message(state)["text"])

        await asyncio.gather(write(), read(), read())

    async def test_a_state_can_be_written_twice_in_one_block(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            state = response("m", "a")
            await locked.put([state])
            fold(state, event_of("token", "m", 2, text="b"))
            await locked.put([state])
            state.pointer = 7
            await locked.put([state])
            state.pointer = 8
            await locked.put([state])
            fold(state, event_of("token", "m", 3, text="c"))
            await locked.put([state])
            assert (await locked.messages(["m"]))["m"] is state
        (read,) = (await store.load("c", limit=1, before=None)).open
        assert (wire.message(read)["text"], read.pointer) == ("abc", 8)

    async def test_an_unchanged_message_is_not_written(self, store) -> None:
        await put(store, "c", response("m", "a"), response("n", "b", ended=True))
        async with store.locked("c", "ai:c") as locked:
            states = await locked.messages(["m", "n"])
            await locked.put(states.values())
        assert len((await store.load("c", limit=1, before=None)).open) == 1


class Leases:
    """Leases of publishers, measured by the store's clock."""

    async def test_an_imported_message_has_no_lease(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            await locked.put([response("m")])
            assert await locked.lease("m") is None
            assert await locked.lease("none") is None

    async def test_a_lease_lasts_and_expires(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            await locked.put([response("m")])
            await locked.grant("m", "me", 60)
            assert await locked.lease("m") == ("me", False, False, False)
            await locked.grant("m", "you", 0)
            assert await locked.lease("m") == ("you", True, False, False)
        async with store.locked("c", "ai:c") as locked:
            assert (await locked.lease("m")).holder == "you"

    async def test_an_acknowledged_stop_ends_a_lease(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            await locked.put([response("m", ended=True)])
            await locked.grant("m", "me", 60)
            await locked.set_stop_acked("m")
            assert await locked.lease("m") == (None, True, False, True)
            await locked.set_stop_acked("m")
            assert (await locked.lease("m")).stop_acked

    async def test_a_grant_for_an_unstored_message_is_refused(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            with pytest.raises(NotFound):
                await locked.grant("m", "me", 60)

    async def test_a_fenced_publisher_cannot_write(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            await locked.put([response("m")])
            await locked.grant("m", "me", 60)
            await locked.fence("m", "sweeper", 60)
            assert await locked.lease("m") == ("sweeper", False, True, False)
            for holder in ("me", "you"):
                with pytest.raises(Fenced):
                    await locked.grant("m", holder, 60)
        await further(store, "c", event_of("stop", "m", 1))
        async with store.locked("c", "ai:c") as locked:
            await locked.set_stop_acked("m")
            assert await locked.lease("m") == (None, True, True, True)

    async def test_a_lease_is_rolled_back_with_the_rest(self, store) -> None:
        await put(store, "c", response("m"))

        async def fail() -> None:
            async with store.locked("c", "ai:c") as locked:
                await locked.grant("m", "me", 60)
                raise Fenced("by the test")

        with pytest.raises(Fenced):
            await fail()
        async with store.locked("c", "ai:c") as locked:
            assert await locked.lease("m") is None


class Watermarks:
    """Watermarks, and the intervals of history that were lost."""

    async def test_the_watermark_moves_and_is_read_as_it_was_set(self, store) -> None:
        mark = Watermark("5-s", AT_MS, AT_MS + 7)
        async with store.locked("c", "ai:c") as locked:
            await locked.move(mark, None)
            assert locked.conversation.watermark == mark
        assert (await store.load("c", limit=1, before=None)).conversation.watermark == mark
        async with store.locked("c", "ai:c") as locked:
            assert locked.conversation.watermark == mark
            await locked.move(Watermark(None, AT_MS, AT_MS + 8), None)
        ((row,), _) = await store.conversations(limit=1, before=None)
        assert row.watermark == (None, AT_MS, AT_MS + 8)

    async def test_lost_intervals_are_stored_and_adjacent_ones_merged(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            for hole in (LostInterval(10, 20), LostInterval(40, 50), LostInterval(15, 30)):
                await locked.move(Watermark("1", AT_MS, AT_MS), hole)
        row = (await store.load("c", limit=1, before=None)).conversation
        assert row.holes == (LostInterval(10, 30), LostInterval(40, 50))

    async def test_the_number_of_lost_intervals_is_bounded(self, store) -> None:
        async with store.locked("c", "ai:c") as locked:
            for n in range(130):
                await locked.move(Watermark("1", AT_MS, AT_MS), LostInterval(n * 10, n * 10 + 5))
        holes = (await store.load("c", limit=1, before=None)).conversation.holes
        assert len(holes) == 100
        assert (holes[0].from_ms, holes[-1]) == (0, LostInterval(1290, 1295))

    async def test_times_are_exact_to_the_millisecond(self, store) -> None:
        for ms in (AT_MS, 1, 999, 1_999_999_999_999, 4_102_444_800_001):
            async with store.locked("c", "ai:c") as locked:
                await locked.move(Watermark("1", ms, ms), None)
            row = (await store.load("c", limit=1, before=None)).conversation
            assert row.watermark == ("1", ms, ms)
            async with store.locked("c", "ai:c") as locked:
                assert locked.conversation.watermark == ("1", ms, ms)

"""7, 8, S6, S12 of docs/exactness.md: publishers that die, or seem to, and how responses end."""

from __future__ import annotations

import pytest

from exactness.rooms import Cable, Gate, Paused, event_of, now_ms, until, within
from exactness.viewing import viewing
from rehydrate.core.fold import MessageState, fold
from rehydrate.errors import Fenced
from rehydrate.maintenance.idle_limit import end_idle
from rehydrate.maintenance.sweeper import sweep, unannounced_end
from rehydrate.ports import Due
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.record.import_messages import NewMessage

pytestmark = pytest.mark.slow


async def swept(room, rid, *, channel=None, lease_s=0.0):
    """Sweep *rid*, whose lease has run out."""

    async def record(_):
        return await room.catch_up()

    due = [Due(room.id, rid, room.name)]
    ctx = room.context(channel=channel or room.channel)
    return await sweep(ctx, due, record=record, lease_s=lease_s)


class Test7DeadBetweenTheCommitAndTheStop:
    async def test_a_sweeper_announces_the_committed_end_to_live_readers(self, room):
        stopping = Gate()

        async def publish():
            channel = Paused(room.channel, stop=stopping)
            async with room.respond("r", channel=channel) as response:
                response.write("abc")

        async with viewing(room) as view:
            publishing = room.house.spawn(publish())
            await stopping.reached()
            await until(lambda: view.texts == {"r": ("abc", "in_progress")})
            await room.take_over("r")
            assert await swept(room, "r")
            await until(lambda: view.texts == {"r": ("abc", "completed")})
            assert not await swept(room, "r")  # once is enough
            stopping.open()  # the publisher was only slow: its stop has the id of the sweeper's
            await within(publishing)
        assert view.texts == {"r": ("abc", "completed")}
        assert (await room.shown()) == {"r": ("abc", "completed")}

    async def test_a_response_that_a_backend_finished_also_ends_for_live_readers(self, room):
        async with viewing(room) as view:
            await room.publish_response("r", "ab", stop=False)
            await room.catch_up()
            await room.store_messages(NewMessage("r", "assistant", text="abc"))
            await until(lambda: view.texts == {"r": ("ab", "in_progress")})
            assert await swept(room, "r")
            await until(lambda: view.texts == {"r": ("abc", "completed")})
        assert (await room.shown()) == {"r": ("abc", "completed")}


class Test8TheSweeperKeepsAllText:
    async def test_text_the_recorder_had_not_read_is_kept_and_the_zombie_is_fenced(self, room):
        zombie = await room.claimed("r")
        await room.publish_response("r", "ab", stop=False)
        await room.catch_up()
        await room.publish_message("token", "c", responseId="r", seq=3)
        await room.take_over("r")
        async with viewing(room) as view:
            assert await swept(room, "r")
            await until(lambda: view.texts == {"r": ("abc", "interrupted")})
        assert await room.stored() == {"r": ("abc", "interrupted")}
        with pytest.raises(Fenced):
            await zombie.checkpoint(_written("r", "d"))
        assert await room.stored() == {"r": ("abc", "interrupted")}

    async def test_a_zombie_token_with_the_seq_of_the_stop_does_not_prevent_or_change_the_end(
        self, room
    ):
        """The token arrives first: the stop seems old, but ends the response."""
        await room.claimed("r")
        await room.publish_response("r", "ab", stop=False)
        await room.take_over("r")
        stopping = Gate()
        async with viewing(room) as view:
            sweeping = room.house.spawn(
                swept(room, "r", channel=Paused(room.channel, stop=stopping))
            )
            await stopping.reached()
            await room.publish_message("token", "c", responseId="r", seq=3)
            await until(lambda: view.texts == {"r": ("abc", "in_progress")})
            stopping.open()
            assert await within(sweeping)
            await until(lambda: view.texts == {"r": ("abc", "interrupted")})
            async with room.store.locked(room.id, room.name) as held:
                (state,) = (await held.messages(["r"])).values()
                again = unannounced_end(state)
                await held.put([state])
            assert await room.stored() == {"r": ("abc", "interrupted")}
            for event in again:  # like a sweeper that died before it recorded its announcement
                await room.publish_message(
                    {"repair": "response-complete"}.get(event.kind, event.kind),
                    {"parts": event.value} if event.kind == "repair" else None,
                    responseId="r",
                    seq=event.seq,
                    gen=event.gen,
                    **({"status": event.status} if event.status else {}),
                )
            await view.wait_for("stop", 2)
            await until(lambda: view.texts == {"r": ("abc", "interrupted")})
        await room.catch_up()
        assert await room.stored() == {"r": ("abc", "interrupted")}

    async def test_text_that_only_a_checkpoint_has_reaches_live_readers_with_the_end(self, room):
        ledger = await room.claimed("r")
        async with viewing(room) as view:
            await room.publish_response("r", "ab", stop=False)
            await until(lambda: view.texts == {"r": ("ab", "in_progress")})
            await ledger.checkpoint(_written("r", "abcd"))
            await room.take_over("r")
            assert await swept(room, "r")
            await until(lambda: view.texts == {"r": ("abcd", "interrupted")})
        assert (await room.shown()) == {"r": ("abcd", "interrupted")}

    def test_an_end_that_is_announced_again_does_not_change_the_text(self):
        state = MessageState("r")
        for event in (
            event_of("start", "r", 0),
            event_of("token", "r", 1, "a"),
            event_of("token", "r", 2, "b"),  # a zombie's, with the number of the sweeper's stop
            event_of("stop", "r", 2, status="interrupted"),
        ):
            fold(state, event)
        told = unannounced_end(state)
        assert "".join(part["text"] for part in state.parts()) == "ab"
        other = MessageState("r")
        for event in (event_of("token", "r", 2, "b"), event_of("token", "r", 1, "a"), *told):
            fold(other, event)
        assert "".join(part["text"] for part in other.parts()) == "ab"


class _written:  # noqa: N801 - what a checkpoint reads of a writer
    """A writer that has published *text*, a letter per seq."""

    def __init__(self, rid, text):
        self.id, self.position, self.closed, self.metadata = rid, None, None, None
        self.unstored = [event_of("start", rid, 0)]
        self.unstored += [event_of("token", rid, n, letter) for n, letter in enumerate(text, 1)]

    def stored(self, count):
        del self.unstored[:count]


class TestS6TheIdleLimit:
    async def test_its_end_is_provisional_for_the_store_and_for_readers(self, house):
        ahead_ms = [0]

        def clock():
            return now_ms() + ahead_ms[0]

        with house.room(clock=clock) as room:
            await room.publish_response("r", "a", stop=False)
            await room.catch_up()
            ahead_ms[0] = 60_000
            due = Due(room.id, "r", room.name)

            async def record(_):
                return await room.catch_up()

            assert await end_idle(room.ctx, due, limit_ms=30_000, record=record)
            assert await room.stored() == {"r": ("a", "interrupted")}
            async with viewing(room) as view:
                await until(lambda: view.texts == {"r": ("a", "interrupted")})
                await room.publish_response("r", "bc", start=False, first=2)
                await until(lambda: view.texts == {"r": ("abc", "completed")})
            await room.catch_up()
        assert await room.stored() == {"r": ("abc", "completed")}


class TestS12TheEndWhilePostgresIsAway:
    @pytest.fixture
    async def cable(self, module_database):
        async with Cable(module_database) as made:
            yield made

    async def test_a_sweeper_does_not_fence_a_publisher_that_still_publishes(self, room):
        await room.claimed("r")
        await room.publish_response("r", "ab", stop=False)
        await room.take_over("r")  # it could not renew its lease: Postgres was away
        assert not await swept(room, "r", lease_s=30.0)
        assert not (await room.lease("r")).fenced

    async def test_a_publisher_whose_clock_was_ahead_is_fenced_as_soon_as_any_other(self, room):
        await Checkpoints(room.context(ahead_ms=3_600_000), room.id).claim("r", None, None)
        await room.take_over("r")  # it died
        assert await swept(room, "r", lease_s=5.0) == 1
        assert (await room.lease("r")).fenced

    async def test_a_publisher_retries_the_commit_and_announces_no_end_before_it(self, room, cable):
        frail = PostgresStore(cable.url)
        await frail.open()
        try:

            async def publish():
                async with room.respond("r", store=frail) as response:
                    response.write("abc")
                    await room.wait_for_history(2)
                    cable.cut()

            async with viewing(room) as view:
                publishing = room.house.spawn(publish())
                await until(lambda: view.texts == {"r": ("abc", "in_progress")})
                await room.take_over("r")  # away for longer than its lease lasts
                assert not publishing.done()
                assert [name for name, _, _ in await room.channel_events()] == ["start", "token"]
                cable.mend()
                with pytest.raises(Fenced):  # another publisher has the lease now
                    await within(publishing)
                assert await swept(room, "r")
                await until(lambda: view.texts == {"r": ("abc", "interrupted")})
        finally:
            await frail.close()

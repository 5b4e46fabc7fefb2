"""7, 8, S6, S12 of docs/exactness.md: publishers that die, or seem to, and how responses end."""

from __future__ import annotations

from typing import ClassVar

import pytest

from exactness.viewing import viewing
from rehydrate.core.fold import MessageState, fold
from rehydrate.errors import Fenced
from rehydrate.maintenance.idle_limit import end_idle
from rehydrate.maintenance.sweeper import sweep, unannounced_end
from rehydrate.ports import Due
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.record.import_messages import NewMessage
from shared_adapters import HookedPort, Latch, event_of, now_ms, until, within
from tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow


async def swept(chat, rid, *, channel=None, lease_s=0.0):
    """Sweep *rid*, whose lease has run out."""

    async def record(_):
        return await chat.catch_up()

    due = [Due(chat.id, rid, chat.name)]
    ctx = chat.context(channel=channel or chat.channel)
    return await sweep(ctx, due, record=record, lease_s=lease_s)


class Test7DeadBetweenTheCommitAndTheStop:
    async def test_a_sweeper_announces_the_committed_end_to_live_readers(self, chat):
        stopping = Latch()

        async def publish():
            channel = HookedPort(chat.channel, stop=stopping)
            async with chat.respond("r", channel=channel) as response:
                response.write("abc")

        async with viewing(chat) as view:
            publishing = chat.adapters.spawn(publish())
            await stopping.reached()
            await until(lambda: view.texts == {"r": ("abc", "in_progress")})
            await chat.take_over("r")
            assert await swept(chat, "r")
            await until(lambda: view.texts == {"r": ("abc", "completed")})
            assert not await swept(chat, "r")  # once is enough
            stopping.open()  # the publisher was only slow: its stop has the id of the sweeper's
            await within(publishing)
        assert view.texts == {"r": ("abc", "completed")}
        assert (await chat.shown()) == {"r": ("abc", "completed")}

    async def test_a_response_that_a_backend_finished_also_ends_for_live_readers(self, chat):
        async with viewing(chat) as view:
            await chat.publish_response("r", "ab", stop=False)
            await chat.catch_up()
            await chat.store_messages(NewMessage("r", "assistant", text="abc"))
            await until(lambda: view.texts == {"r": ("ab", "in_progress")})
            assert await swept(chat, "r")
            await until(lambda: view.texts == {"r": ("abc", "completed")})
        assert (await chat.shown()) == {"r": ("abc", "completed")}


class TestS24AMessageIsPostedWhileItStreams:
    POSTED: ClassVar = {"r": ("posted", "completed")}

    async def test_live_readers_get_the_posted_text_and_its_end(self, chat):
        async with viewing(chat) as view:
            await chat.publish_response("r", "ab", stop=False, client_id="agent")
            await chat.store_messages(NewMessage("r", "assistant", text="posted"))
            assert not (await chat.lease("r")).expired  # history may lag
            await chat.take_over("r")
            assert await swept(chat, "r")
            await view.shows(**self.POSTED)
            await chat.publish_message("token", "c", client_id="agent", responseId="r", seq=3)
            await chat.publish_message("stop", client_id="agent", responseId="r", seq=4)
            await chat.catch_up()
            await view.wait_for("stop", 2)
            await view.shows(**self.POSTED)
        assert await chat.shown() == await chat.stored() == self.POSTED
        assert (await chat.lease("r")).stop_acked  # its end is published once

    async def test_a_response_that_ended_on_the_channel_is_shown_as_posted_too(self, chat):
        async with viewing(chat) as view:
            await chat.publish_response("r", "ab")
            await chat.store_messages(NewMessage("r", "assistant", text="posted"))
            await view.wait_for("stop", 1)
            await chat.take_over("r")
            assert await swept(chat, "r")
            await view.shows(**self.POSTED)

    async def test_its_publisher_cannot_repair_it(self, chat):
        await chat.store_messages(NewMessage("r", "assistant", text="posted"))
        await chat.publish_response("r", "ab", stop=False)
        for _ in range(2):
            await chat.publish_message("response-complete", "other", responseId="r", seq=9)
            assert await chat.shown() == self.POSTED
            await chat.catch_up()
            assert await chat.stored() == self.POSTED

    async def test_it_ends_also_if_its_stream_begins_later(self, chat):
        await chat.store_messages(NewMessage("r", "assistant", text="posted"))
        await chat.take_over("r")
        assert not await swept(chat, "r")
        assert (await chat.lease("r")).stop_acked
        assert await chat.on_channel() == []  # nothing streams it: nothing is published
        async with viewing(chat) as view:
            await chat.publish_response("r", "ab", stop=False)
            await chat.catch_up()
            assert await swept(chat, "r")
            await view.shows(**self.POSTED)


class Test8TheSweeperKeepsAllText:
    async def test_text_the_recorder_had_not_read_is_kept_and_the_zombie_is_fenced(self, chat):
        zombie = await chat.claimed("r")
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        await chat.publish_message("token", "c", responseId="r", seq=3)
        await chat.take_over("r")
        async with viewing(chat) as view:
            assert await swept(chat, "r")
            await until(lambda: view.texts == {"r": ("abc", "interrupted")})
        assert await chat.stored() == {"r": ("abc", "interrupted")}
        with pytest.raises(Fenced):
            await zombie.checkpoint(_written("r", "d"))
        assert await chat.stored() == {"r": ("abc", "interrupted")}

    async def test_a_zombie_token_with_the_seq_of_the_stop_does_not_prevent_or_change_the_end(
        self, chat
    ):
        """The token arrives first: the stop seems old, but ends the response."""
        await chat.claimed("r")
        await chat.publish_response("r", "ab", stop=False)
        await chat.take_over("r")
        stopping = Latch()
        async with viewing(chat) as view:
            sweeping = chat.adapters.spawn(
                swept(chat, "r", channel=HookedPort(chat.channel, stop=stopping))
            )
            await stopping.reached()
            await chat.publish_message("token", "c", responseId="r", seq=3)
            await until(lambda: view.texts == {"r": ("abc", "in_progress")})
            stopping.open()
            assert await within(sweeping)
            await until(lambda: view.texts == {"r": ("abc", "interrupted")})
            async with chat.store.locked(chat.id, chat.name) as held:
                (state,) = (await held.messages(["r"])).values()
                again = unannounced_end(state)
                await held.put([state])
            assert await chat.stored() == {"r": ("abc", "interrupted")}
            for event in again:  # like a sweeper that died before it recorded its announcement
                await chat.publish_message(
                    {"repair": "response-complete"}.get(event.kind, event.kind),
                    {"parts": event.value} if event.kind == "repair" else None,
                    responseId="r",
                    seq=event.seq,
                    gen=event.gen,
                    **({"status": event.status} if event.status else {}),
                )
            await view.wait_for("stop", 2)
            await until(lambda: view.texts == {"r": ("abc", "interrupted")})
        await chat.catch_up()
        assert await chat.stored() == {"r": ("abc", "interrupted")}

    async def test_text_that_only_a_checkpoint_has_reaches_live_readers_with_the_end(self, chat):
        ledger = await chat.claimed("r")
        async with viewing(chat) as view:
            await chat.publish_response("r", "ab", stop=False)
            await until(lambda: view.texts == {"r": ("ab", "in_progress")})
            await ledger.checkpoint(_written("r", "abcd"))
            await chat.take_over("r")
            assert await swept(chat, "r")
            await until(lambda: view.texts == {"r": ("abcd", "interrupted")})
        assert (await chat.shown()) == {"r": ("abcd", "interrupted")}

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
    async def test_its_end_is_provisional_for_the_store_and_for_readers(self, adapters):
        ahead_ms = [0]

        def clock():
            return now_ms() + ahead_ms[0]

        with adapters.conversation(clock=clock) as chat:
            await chat.publish_response("r", "a", stop=False)
            await chat.catch_up()
            ahead_ms[0] = 60_000
            due = Due(chat.id, "r", chat.name)

            async def record(_):
                return await chat.catch_up()

            assert await end_idle(chat.ctx, due, limit_ms=30_000, record=record)
            assert await chat.stored() == {"r": ("a", "interrupted")}
            async with viewing(chat) as view:
                await until(lambda: view.texts == {"r": ("a", "interrupted")})
                await chat.publish_response("r", "bc", start=False, first=2)
                await until(lambda: view.texts == {"r": ("abc", "completed")})
            await chat.catch_up()
        assert await chat.stored() == {"r": ("abc", "completed")}


class TestS12TheEndWhilePostgresIsAway:
    @pytest.fixture
    async def proxy(self, module_database):
        async with TcpProxy(module_database) as made:
            yield made

    async def test_a_sweeper_does_not_fence_a_publisher_that_still_publishes(self, chat):
        await chat.claimed("r")
        await chat.publish_response("r", "ab", stop=False)
        await chat.take_over("r")  # it could not renew its lease: Postgres was away
        assert not await swept(chat, "r", lease_s=30.0)
        assert not (await chat.lease("r")).fenced

    async def test_a_publisher_whose_clock_was_ahead_is_fenced_as_soon_as_any_other(self, chat):
        await Checkpoints(chat.context(ahead_ms=3_600_000), chat.id).claim("r", None, None)
        await chat.take_over("r")  # it died
        assert await swept(chat, "r", lease_s=5.0) == 1
        assert (await chat.lease("r")).fenced

    async def test_a_publisher_retries_the_commit_and_announces_no_end_before_it(self, chat, proxy):
        frail = PostgresStore(proxy.url)
        await frail.open()
        try:

            async def publish():
                async with chat.respond("r", store=frail) as response:
                    response.write("abc")
                    await chat.wait_for_history(2)
                    await proxy.disconnect()

            async with viewing(chat) as view:
                publishing = chat.adapters.spawn(publish())
                await until(lambda: view.texts == {"r": ("abc", "in_progress")})
                await chat.take_over("r")  # away for longer than its lease lasts
                assert not publishing.done()
                assert [name for name, _, _ in await chat.channel_events()] == ["start", "token"]
                await proxy.connect()
                with pytest.raises(Fenced):  # another publisher has the lease now
                    await within(publishing)
                assert await swept(chat, "r")
                await until(lambda: view.texts == {"r": ("abc", "interrupted")})
        finally:
            await frail.close()

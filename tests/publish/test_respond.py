"""Respond with a real store and channel: published, stored, and ended in every case."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from rehydrate.context import PublishOptions
from rehydrate.errors import BadParameter, Conflict, Fenced, StoreUnavailable
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish.checkpoints import Checkpoints
from shared_adapters import HookedPort, Latch, within
from tcp_proxy import TcpProxy
from waiting import PATIENCE_S

TEXT = "むかし👩‍👩‍👧é\u0302ab"


@pytest.fixture
def often(monkeypatch):
    """Checkpoints every few milliseconds."""
    monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)


async def test_text_is_stored_while_the_lease_lasts_however_long_the_interval(chat, monkeypatch):
    monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)
    monkeypatch.setattr("rehydrate.publish.respond.CALM_INTERVALS", 1_000_000)
    async with chat.respond("r", options=PublishOptions(lease_s=5.0)) as response:
        response.write("text")
        await chat.wait_for_history(2)
        async with asyncio.timeout(PATIENCE_S):
            while (await chat.stored())["r"][0] != "text":
                assert not (await chat.lease("r")).expired
                await asyncio.sleep(0.05)


class TestTheStream:
    async def test_every_event_has_the_next_seq_and_the_stop_the_last(self, chat):
        async with chat.respond("r", prompt_id="p", metadata={"k": 1}) as response:
            for letter in TEXT:
                response.write(letter)
            assert response.text == TEXT
        count = len(TEXT)
        assert await chat.channel_events() == [
            ("start", 0, 1),
            *(("token", seq, 1) for seq in range(1, count + 1)),
            ("stop", count + 1, 1),
        ]
        message = await chat.message()
        assert (message["text"], message["status"], message["prompt_id"]) == (
            TEXT,
            "completed",
            "p",
        )
        assert message["metadata"] == {"k": 1}

    async def test_the_recording_of_the_channel_equals_what_was_committed(self, chat):
        async with chat.respond("r") as response:
            response.reason("hm")
            response.write("a", part="x")
            response.tool_call("c", "find")
            response.tool_args("c", '{"q":1}')
            response.tool_result("c", [1, 2], name="find")
            response.tool_call("d", "find", {"q": 2})
            response.tool_result("d", {"error": "TimeoutError"}, failed=True)
            response.tool_call("e", "find", {"q": 3})
            response.refuse("no")
            response.finish("incomplete", usage={"n": 3}, error={"code": "length"})
        committed = await chat.store.message(chat.id, "r")
        recorded = await chat.catch_up()
        assert recorded.counts == {"old": 11}
        assert json.loads(await chat.store.message(chat.id, "r")) == json.loads(committed)
        message = json.loads(committed)
        assert [part["type"] for part in message["parts"]] == [
            "reasoning",
            "text",
            *["tool_call"] * 3,
            "refusal",
        ]
        assert message["parts"][2] == {
            "type": "tool_call",
            "tool_call_id": "c",
            "name": "find",
            "args": '{"q":1}',
            "result": [1, 2],
            "status": "completed",
        }
        assert [(part["status"], part["result"]) for part in message["parts"][3:5]] == [
            ("failed", {"error": "TimeoutError"}),
            ("incomplete", None),
        ]
        assert (message["status"], message["usage"]) == ("incomplete", {"n": 3})
        assert message["error"] == {"code": "length"}

    async def test_a_streaming_response_is_stored_in_parts_and_shown_whole(self, chat, often):
        async with chat.respond("r") as response:
            for letter in "abc":
                response.write(letter)
                await chat.wait_for_history(1 + len(response.text))
                assert await chat.shown() == {"r": (response.text, "in_progress")}
            async with asyncio.timeout(PATIENCE_S):
                while (await chat.stored())["r"][0] != "abc":  # noqa: ASYNC110 - a task writes
                    await asyncio.sleep(0.01)

    async def test_checkpoints_go_on_after_a_failure_of_any_kind_and_a_cancellation(
        self, chat, often, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.background.RESTART_S", 0.01)
        left = [KeyError("a defect"), TimeoutError(), StoreUnavailable("away")]
        plain = Checkpoints.checkpoint

        async def checkpoint(self, writer, ending=()):
            if left:
                raise left.pop()
            await plain(self, writer, ending)

        async with chat.respond("r") as response:
            monkeypatch.setattr(Checkpoints, "checkpoint", checkpoint)
            response.write("a")
            await chat.wait_until_stored("r", "a")
            assert not left
            (saving,) = [task for task in asyncio.all_tasks() if task.get_name() == "checkpoints"]
            saving.cancel()
            await asyncio.wait([saving])
            response.write("b")
            await chat.wait_until_stored("r", "ab")

    async def test_metadata_may_be_replaced_while_streaming(self, chat, often):
        async with chat.respond("r", metadata={"k": 1}) as response:
            response.annotate({"k": 1, "vendor": ["resp_1"]})
            response.write("a")
            await chat.wait_until_stored("r", "a")
            (state,) = await chat.store.states(chat.id, ["r"])
            assert state.metadata == {"k": 1, "vendor": ["resp_1"]}
            response.annotate({"k": 2})
            with pytest.raises(BadParameter):
                response.annotate({"k": object()})
        assert (await chat.message())["metadata"] == {"k": 2}

    async def test_text_too_long_for_one_message_is_split(self, chat):
        long = "語😀" * 20_000
        async with chat.respond("r") as response:
            response.write(long)
        messages = [m for m in await chat.on_channel() if m.name == "token"]
        assert len(messages) > 1
        assert all(len(m.data.encode()) < 65_536 for m in messages)
        assert (await chat.shown())["r"] == (long, "completed")

    async def test_surrogate_halves_are_joined_again(self, chat):
        async with chat.respond("r") as response:
            for half in ("a\ud83d", "\ude00b"):
                response.write(half)
                await asyncio.sleep(0)
        assert (await chat.shown())["r"] == ("a😀b", "completed")

    async def test_a_response_without_content_is_a_response(self, chat):
        async with chat.respond("r"):
            pass
        assert await chat.channel_events() == [("start", 0, 1), ("stop", 1, 1)]
        assert (await chat.message())["parts"] == []


class TestEnds:
    async def test_an_exception_in_the_block_ends_it_failed_and_propagates(self, chat):
        with pytest.raises(RuntimeError, match="model"):  # noqa: PT012 - its end raises
            async with chat.respond("r") as response:
                response.write("ab")
                raise RuntimeError("the model broke")
        message = await chat.message()
        assert (message["text"], message["status"], message["error"]) == (
            "ab",
            "failed",
            "RuntimeError",
        )
        assert (await chat.channel_events())[-1] == ("stop", 2, 1)
        assert "model broke" not in json.dumps(message)

    async def test_a_cancelled_block_ends_it_cancelled(self, chat):
        written = asyncio.Event()

        async def publish():
            async with chat.respond("r") as response:
                response.write("ab")
                written.set()
                await asyncio.sleep(60)

        publishing = chat.adapters.spawn(publish())
        await within(written.wait())
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert (await chat.shown())["r"] == ("ab", "cancelled")
        assert (await chat.channel_events())[-1][0] == "stop"

    async def test_a_cancellation_during_the_end_still_ends_the_response(self, chat):
        stop = Latch()

        async def publish():
            channel = HookedPort(chat.channel, stop=stop)
            async with chat.respond("r", channel=channel) as response:
                response.write("ab")

        publishing = chat.adapters.spawn(publish())
        await stop.reached()
        publishing.cancel()
        await asyncio.sleep(0)
        stop.open()
        with pytest.raises(asyncio.CancelledError):
            await within(publishing)
        assert (await chat.shown())["r"] == ("ab", "completed")
        assert (await chat.lease("r")).stop_acked

    async def test_finish_takes_precedence_over_an_exception_of_the_block(self, chat):
        with pytest.raises(RuntimeError):  # noqa: PT012 - its end raises
            async with chat.respond("r") as response:
                response.finish("incomplete")
                raise RuntimeError
        assert (await chat.message())["status"] == "incomplete"

    async def test_nothing_is_written_after_the_end(self, chat):
        async with chat.respond("r") as response:
            response.write("a")
        with pytest.raises(Fenced):
            response.write("b")


class TestWhoseItIs:
    async def test_a_second_publisher_is_refused_while_the_first_lives_and_after_it_ended(
        self, chat
    ):
        async with chat.respond("r") as response:
            response.write("a")
            with pytest.raises(Conflict):
                async with chat.respond("r"):
                    pass
        with pytest.raises(Conflict):
            async with chat.respond("r"):
                pass
        assert await chat.stored() == {"r": ("a", "completed")}

    async def test_a_dead_publishers_response_is_taken_over_and_the_zombie_changes_nothing(
        self, chat, often
    ):
        with pytest.raises(Fenced):  # noqa: PT012 - raised by the next write of the zombie
            async with chat.respond("r") as zombie:
                zombie.write("zombie ")
                await chat.wait_for_history(2)
                await chat.take_over("r")
                async with chat.respond("r") as second:
                    assert second.gen == 2
                    second.write("second")
                    await chat.wait_for_history(4)
                    with suppress(Fenced):  # on a busy machine it has noticed before
                        zombie.write("again")
                        await chat.wait_for_history(5)
                    assert await chat.shown() == {"r": ("second", "in_progress")}
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        zombie.write("x")
                        await asyncio.sleep(0.01)
        assert await chat.shown() == {"r": ("second", "completed")}
        await chat.catch_up()
        assert await chat.stored() == {"r": ("second", "completed")}
        assert [(n, g) for n, _, g in await chat.channel_events() if n == "stop"] == [("stop", 2)]

    async def test_a_zombie_that_ends_is_fenced_and_publishes_nothing(self, chat):
        with pytest.raises(Fenced):  # noqa: PT012 - its end raises
            async with chat.respond("r") as zombie:
                zombie.write("zombie")
                await chat.take_over("r")
                async with chat.respond("r") as second:
                    second.write("second")
        assert [(n, g) for n, _, g in await chat.channel_events() if n == "stop"] == [("stop", 2)]
        assert await chat.stored() == {"r": ("second", "completed")}

    async def test_a_response_fenced_by_a_sweeper_is_not_taken_over(self, chat):
        with pytest.raises(Fenced):  # noqa: PT012 - its end raises
            async with chat.respond("r") as response:
                response.write("a")
                await chat.take_over("r")
                async with chat.store.locked(chat.id, chat.name) as held:
                    await held.fence("r", "sweeper", 30.0)
                with pytest.raises(Conflict):
                    async with chat.respond("r"):
                        pass
        assert "stop" not in [name for name, _, _ in await chat.channel_events()]

    async def test_a_response_is_published_with_the_agents_client_id(self, chat):
        async with chat.respond("r", options=PublishOptions(client_id="bot")) as response:
            response.write("a")
            await chat.wait_for_history(2)
            await chat.publish_message("token", "x", client_id="ann", responseId="r", seq=2, gen=1)
            await chat.publish_message("stop", client_id="ann", responseId="r", seq=3, gen=1)
            assert await chat.shown() == {"r": ("a", "in_progress")}
            response.write("b")
        assert await chat.shown() == {"r": ("ab", "completed")}
        assert {m.client_id for m in await chat.on_channel()} == {"bot", "ann"}

    async def test_the_gen_of_another_client_is_not_inherited(self, chat):
        bot = PublishOptions(client_id="bot")
        await chat.publish_message(
            "token", "x", client_id="ann", responseId="r", seq=1, gen=2_000_000
        )
        await chat.catch_up()
        async with chat.respond("r", options=bot) as response:
            assert response.gen == 1
            response.write("answer")
            await chat.publish_message(
                "token", "y", client_id="ann", responseId="r", seq=2, gen=2_000_000
            )
        for _ in range(2):
            assert await chat.shown() == {"r": ("answer", "completed")}
            await chat.catch_up()

    async def test_the_gen_of_a_publisher_with_the_same_client_id_is_raised(self, chat):
        await chat.publish_message("token", "x", responseId="r", seq=1, gen=6)
        await chat.catch_up()
        async with chat.respond("r") as response:
            assert response.gen == 7
            response.write("answer")
        assert await chat.shown() == {"r": ("answer", "completed")}

    async def test_a_response_whose_gen_cannot_be_raised_is_refused(self, chat):
        await chat.publish_message("token", "x", responseId="r", seq=1, gen=2_000_000)
        await chat.catch_up()
        with pytest.raises(Conflict, match="new id"):
            async with chat.respond("r"):
                pass


class TestWithoutTheStore:
    @pytest.fixture
    async def proxy(self, module_database):
        async with TcpProxy(module_database) as made:
            yield made

    @pytest.fixture
    async def frail(self, proxy):
        store = PostgresStore(proxy.url)
        await store.open()
        yield store
        await store.close()

    async def test_a_short_outage_of_the_store_is_waited_out(self, chat, proxy, frail, often):
        async with chat.respond("r", store=frail) as response:
            response.write("before ")
            await asyncio.sleep(0.05)
            await proxy.disconnect()
            response.write("meanwhile ")
            await asyncio.sleep(0.05)
            await proxy.connect()
            response.write("after")
        assert await chat.stored() == {"r": ("before meanwhile after", "completed")}
        assert (await chat.channel_events())[-1][0] == "stop"

    async def test_nothing_is_announced_while_the_store_is_away_at_the_end(
        self, chat, proxy, frail
    ):
        async def publish():
            async with chat.respond("r", store=frail) as response:
                response.write("text")
                await chat.wait_for_history(2)
                await proxy.disconnect()

        publishing = chat.adapters.spawn(publish())
        await asyncio.sleep(0.5)
        assert [name for name, _, _ in await chat.channel_events()] == ["start", "token"]
        await proxy.connect()
        await within(publishing)
        assert await chat.stored() == {"r": ("text", "completed")}

    async def test_after_a_long_outage_the_caller_gets_an_error_and_readers_no_end(
        self, chat, proxy, frail, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.publish.checkpoints.COMMIT_TIMEOUT_S", 0.2)
        with pytest.raises(StoreUnavailable):  # noqa: PT012 - its end raises
            async with chat.respond("r", store=frail) as response:
                response.write("text")
                await chat.wait_for_history(2)
                await proxy.disconnect()
        assert [name for name, _, _ in await chat.channel_events()] == ["start", "token"]
        assert (await chat.shown())["r"] == ("text", "in_progress")

    async def test_without_the_store_at_the_start_there_is_no_response(self, chat, proxy, frail):
        await proxy.disconnect()
        with pytest.raises(StoreUnavailable):
            async with chat.respond("r", store=frail):
                pass
        assert await chat.on_channel() == []

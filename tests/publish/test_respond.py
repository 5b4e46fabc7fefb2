"""Respond with a real store and channel: published, stored, and ended in every case."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest

from exactness.rooms import Cable, Gate, Paused, open_house, within
from rehydrate.context import PublishOptions
from rehydrate.errors import BadParameter, Conflict, Fenced, StoreUnavailable
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish.checkpoints import Checkpoints
from waiting import PATIENCE_S

TEXT = "むかし👩‍👩‍👧é\u0302ab"


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


@pytest.fixture
def often(monkeypatch):
    """Checkpoints every few milliseconds."""
    monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)


class TestTheStream:
    async def test_every_event_has_the_next_seq_and_the_stop_the_last(self, room):
        async with room.respond("r", prompt_id="p", metadata={"k": 1}) as response:
            for letter in TEXT:
                response.write(letter)
            assert response.text == TEXT
        count = len(TEXT)
        assert await room.channel_events() == [
            ("start", 0, 1),
            *(("token", seq, 1) for seq in range(1, count + 1)),
            ("stop", count + 1, 1),
        ]
        message = await room.message()
        assert (message["text"], message["status"], message["prompt_id"]) == (
            TEXT,
            "completed",
            "p",
        )
        assert message["metadata"] == {"k": 1}

    async def test_the_recording_of_the_channel_equals_what_was_committed(self, room):
        async with room.respond("r") as response:
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
        committed = await room.store.message(room.id, "r")
        recorded = await room.catch_up()
        assert recorded.counts == {"old": 11}
        assert json.loads(await room.store.message(room.id, "r")) == json.loads(committed)
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

    async def test_a_streaming_response_is_stored_in_parts_and_shown_whole(self, room, often):
        async with room.respond("r") as response:
            for letter in "abc":
                response.write(letter)
                await room.wait_for_history(1 + len(response.text))
                assert await room.shown() == {"r": (response.text, "in_progress")}
            async with asyncio.timeout(PATIENCE_S):
                while (await room.stored())["r"][0] != "abc":  # noqa: ASYNC110 - a task writes
                    await asyncio.sleep(0.01)

    async def test_checkpoints_go_on_after_a_failure_of_any_kind_and_a_cancellation(
        self, room, often, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.background.RESTART_S", 0.01)
        left = [KeyError("a defect"), TimeoutError(), StoreUnavailable("away")]
        plain = Checkpoints.checkpoint

        async def checkpoint(self, writer, ending=()):
            if left:
                raise left.pop()
            await plain(self, writer, ending)

        async with room.respond("r") as response:
            monkeypatch.setattr(Checkpoints, "checkpoint", checkpoint)
            response.write("a")
            await room.wait_until_stored("r", "a")
            assert not left
            (saving,) = [task for task in asyncio.all_tasks() if task.get_name() == "checkpoints"]
            saving.cancel()
            await asyncio.wait([saving])
            response.write("b")
            await room.wait_until_stored("r", "ab")

    async def test_metadata_may_be_replaced_while_streaming(self, room, often):
        async with room.respond("r", metadata={"k": 1}) as response:
            response.annotate({"k": 1, "vendor": ["resp_1"]})
            response.write("a")
            await room.wait_until_stored("r", "a")
            (state,) = await room.store.states(room.id, ["r"])
            assert state.metadata == {"k": 1, "vendor": ["resp_1"]}
            response.annotate({"k": 2})
            with pytest.raises(BadParameter):
                response.annotate({"k": object()})
        assert (await room.message())["metadata"] == {"k": 2}

    async def test_text_too_long_for_one_message_is_split(self, room):
        long = "語😀" * 20_000
        async with room.respond("r") as response:
            response.write(long)
        messages = [m for m in await room.on_channel() if m.name == "token"]
        assert len(messages) > 1
        assert all(len(m.data.encode()) < 65_536 for m in messages)
        assert (await room.shown())["r"] == (long, "completed")

    async def test_surrogate_halves_are_joined_again(self, room):
        async with room.respond("r") as response:
            for half in ("a\ud83d", "\ude00b"):
                response.write(half)
                await asyncio.sleep(0)
        assert (await room.shown())["r"] == ("a😀b", "completed")

    async def test_a_response_without_content_is_a_response(self, room):
        async with room.respond("r"):
            pass
        assert await room.channel_events() == [("start", 0, 1), ("stop", 1, 1)]
        assert (await room.message())["parts"] == []


class TestEnds:
    async def test_an_exception_in_the_block_ends_it_failed_and_propagates(self, room):
        with pytest.raises(RuntimeError, match="model"):  # noqa: PT012 - its end raises
            async with room.respond("r") as response:
                response.write("ab")
                raise RuntimeError("the model broke")
        message = await room.message()
        assert (message["text"], message["status"], message["error"]) == (
            "ab",
            "failed",
            "RuntimeError",
        )
        assert (await room.channel_events())[-1] == ("stop", 2, 1)
        assert "model broke" not in json.dumps(message)

    async def test_a_cancelled_block_ends_it_cancelled(self, room):
        written = asyncio.Event()

        async def publish():
            async with room.respond("r") as response:
                response.write("ab")
                written.set()
                await asyncio.sleep(60)

        publishing = room.house.spawn(publish())
        await within(written.wait())
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert (await room.shown())["r"] == ("ab", "cancelled")
        assert (await room.channel_events())[-1][0] == "stop"

    async def test_a_cancellation_during_the_end_still_ends_the_response(self, room):
        stop = Gate()

        async def publish():
            channel = Paused(room.channel, stop=stop)
            async with room.respond("r", channel=channel) as response:
                response.write("ab")

        publishing = room.house.spawn(publish())
        await stop.reached()
        publishing.cancel()
        await asyncio.sleep(0)
        stop.open()
        with pytest.raises(asyncio.CancelledError):
            await within(publishing)
        assert (await room.shown())["r"] == ("ab", "completed")
        assert (await room.lease("r")).stop_acked

    async def test_finish_takes_precedence_over_an_exception_of_the_block(self, room):
        with pytest.raises(RuntimeError):  # noqa: PT012 - its end raises
            async with room.respond("r") as response:
                response.finish("incomplete")
                raise RuntimeError
        assert (await room.message())["status"] == "incomplete"

    async def test_nothing_is_written_after_the_end(self, room):
        async with room.respond("r") as response:
            response.write("a")
        with pytest.raises(Fenced):
            response.write("b")


class TestWhoseItIs:
    async def test_a_second_publisher_is_refused_while_the_first_lives_and_after_it_ended(
        self, room
    ):
        async with room.respond("r") as response:
            response.write("a")
            with pytest.raises(Conflict):
                async with room.respond("r"):
                    pass
        with pytest.raises(Conflict):
            async with room.respond("r"):
                pass
        assert await room.stored() == {"r": ("a", "completed")}

    async def test_a_dead_publishers_response_is_taken_over_and_the_zombie_changes_nothing(
        self, room, often
    ):
        with pytest.raises(Fenced):  # noqa: PT012 - wherever the zombie notices
            async with room.respond("r") as zombie:
                zombie.write("zombie ")
                await room.wait_for_history(2)
                await room.take_over("r")
                async with room.respond("r") as second:
                    assert second.gen == 2
                    second.write("second")
                    await room.wait_for_history(4)
                    with suppress(Fenced):  # on a busy machine it has noticed before
                        zombie.write("again")
                        await room.wait_for_history(5)
                    assert await room.shown() == {"r": ("second", "in_progress")}
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        zombie.write("x")
                        await asyncio.sleep(0.01)
        assert await room.shown() == {"r": ("second", "completed")}
        await room.catch_up()
        assert await room.stored() == {"r": ("second", "completed")}
        assert [(n, g) for n, _, g in await room.channel_events() if n == "stop"] == [("stop", 2)]

    async def test_a_zombie_that_ends_is_fenced_and_publishes_nothing(self, room):
        with pytest.raises(Fenced):  # noqa: PT012 - its end raises
            async with room.respond("r") as zombie:
                zombie.write("zombie")
                await room.take_over("r")
                async with room.respond("r") as second:
                    second.write("second")
        assert [(n, g) for n, _, g in await room.channel_events() if n == "stop"] == [("stop", 2)]
        assert await room.stored() == {"r": ("second", "completed")}

    async def test_a_response_fenced_by_a_sweeper_is_not_taken_over(self, room):
        with pytest.raises(Fenced):  # noqa: PT012 - its end raises
            async with room.respond("r") as response:
                response.write("a")
                await room.take_over("r")
                async with room.store.locked(room.id, room.name) as held:
                    await held.fence("r", "sweeper", 30.0)
                with pytest.raises(Conflict):
                    async with room.respond("r"):
                        pass
        assert "stop" not in [name for name, _, _ in await room.channel_events()]

    async def test_a_response_is_published_with_the_agents_client_id(self, room):
        async with room.respond("r", options=PublishOptions(client_id="bot")) as response:
            response.write("a")
            await room.wait_for_history(2)
            await room.publish_message("token", "x", client_id="ann", responseId="r", seq=2, gen=1)
            await room.publish_message("stop", client_id="ann", responseId="r", seq=3, gen=1)
            assert await room.shown() == {"r": ("a", "in_progress")}
            response.write("b")
        assert await room.shown() == {"r": ("ab", "completed")}
        assert {m.client_id for m in await room.on_channel()} == {"bot", "ann"}

    async def test_the_gen_of_another_client_is_not_inherited(self, room):
        bot = PublishOptions(client_id="bot")
        await room.publish_message(
            "token", "x", client_id="ann", responseId="r", seq=1, gen=2_000_000
        )
        await room.catch_up()
        async with room.respond("r", options=bot) as response:
            assert response.gen == 1
            response.write("answer")
            await room.publish_message(
                "token", "y", client_id="ann", responseId="r", seq=2, gen=2_000_000
            )
        for _ in range(2):
            assert await room.shown() == {"r": ("answer", "completed")}
            await room.catch_up()

    async def test_the_gen_of_a_publisher_with_the_same_client_id_is_raised(self, room):
        await room.publish_message("token", "x", responseId="r", seq=1, gen=6)
        await room.catch_up()
        async with room.respond("r") as response:
            assert response.gen == 7
            response.write("answer")
        assert await room.shown() == {"r": ("answer", "completed")}

    async def test_a_response_whose_gen_cannot_be_raised_is_refused(self, room):
        await room.publish_message("token", "x", responseId="r", seq=1, gen=2_000_000)
        await room.catch_up()
        with pytest.raises(Conflict, match="new id"):
            async with room.respond("r"):
                pass


class TestWithoutTheStore:
    @pytest.fixture
    async def cable(self, module_database):
        async with Cable(module_database) as made:
            yield made

    @pytest.fixture
    async def frail(self, cable):
        store = PostgresStore(cable.url)
        await store.open()
        yield store
        await store.close()

    async def test_a_short_outage_of_the_store_is_waited_out(self, room, cable, frail, often):
        async with room.respond("r", store=frail) as response:
            response.write("before ")
            await asyncio.sleep(0.05)
            cable.cut()
            response.write("meanwhile ")
            await asyncio.sleep(0.05)
            cable.mend()
            response.write("after")
        assert await room.stored() == {"r": ("before meanwhile after", "completed")}
        assert (await room.channel_events())[-1][0] == "stop"

    async def test_nothing_is_announced_while_the_store_is_away_at_the_end(
        self, room, cable, frail
    ):
        async def publish():
            async with room.respond("r", store=frail) as response:
                response.write("text")
                await room.wait_for_history(2)
                cable.cut()

        publishing = room.house.spawn(publish())
        await asyncio.sleep(0.5)
        assert [name for name, _, _ in await room.channel_events()] == ["start", "token"]
        cable.mend()
        await within(publishing)
        assert await room.stored() == {"r": ("text", "completed")}

    async def test_after_a_long_outage_the_caller_gets_an_error_and_readers_no_end(
        self, room, cable, frail, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.publish.checkpoints.COMMIT_TIMEOUT_S", 0.2)
        with pytest.raises(StoreUnavailable):  # noqa: PT012 - its end raises
            async with room.respond("r", store=frail) as response:
                response.write("text")
                await room.wait_for_history(2)
                cable.cut()
        assert [name for name, _, _ in await room.channel_events()] == ["start", "token"]
        assert (await room.shown())["r"] == ("text", "in_progress")

    async def test_without_the_store_at_the_start_there_is_no_response(self, room, cable, frail):
        cable.cut()
        with pytest.raises(StoreUnavailable):
            async with room.respond("r", store=frail):
                pass
        assert await room.on_channel() == []

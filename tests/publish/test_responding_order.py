"""Law 7 with a real store and channel: durable before announced, and announced eventually."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from exactness.rooms import Gate, Paused, channel_of, open_house, within
from rehydrate.core.client_view import View
from rehydrate.errors import ChannelUnavailable
from waiting import PATIENCE_S


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


class TestLaw7:
    async def test_the_text_is_committed_then_repaired_then_stopped(self, room):
        commit, repair, stop = Gate(), Gate(), Gate()
        ending = False

        async def before_lock():
            if ending:
                await commit()

        store = Paused(room.store, locked=before_lock)
        channel = Paused(room.channel, **{"response-complete": repair, "stop": stop})

        async def publish():
            nonlocal ending
            async with room.respond("r", store=store, channel=channel) as response:
                response.write("draft")
                response.finish(parts=[{"type": "text", "text": "final"}])
                ending = True

        publishing = room.house.spawn(publish())
        await commit.reached()
        await room.wait_for_history(2)
        assert [name for name, _, _ in await room.channel_events()] == ["start", "token"]
        assert await room.shown() == {"r": ("draft", "in_progress")}
        commit.open()
        await repair.reached()
        assert await room.stored() == {"r": ("final", "completed")}
        assert [name for name, _, _ in await room.channel_events()] == ["start", "token"]
        repair.open()
        await stop.reached()
        assert await room.channel_events() == [
            ("start", 0, 1),
            ("token", 1, 1),
            ("response-complete", 1, 1),
        ]
        lease = await room.lease("r")
        assert (lease.stop_acked, lease.holder is None) == (False, False)
        stop.open()
        await within(publishing)
        assert (await room.channel_events())[-1] == ("stop", 2, 1)
        assert (await room.lease("r")).stop_acked

    @pytest.mark.parametrize("refused", [2, [2, 4], [1]], ids=str)
    async def test_a_refused_publish_is_repaired_for_readers(self, room, refused):
        async with room.deliveries() as delivered:
            with room.faults.on("refuse_publish", nth=refused, code=42911, channel=room.name):
                async with room.respond("r") as response:
                    for letter in "abcde":
                        response.write(letter)
            async with asyncio.timeout(PATIENCE_S):
                while not delivered or delivered[-1].name != "stop":  # noqa: ASYNC110 - filled by the SDK
                    await asyncio.sleep(0.01)
        names = [m.name for m in delivered]
        assert names[-2:] == ["response-complete", "stop"]
        message = await room.message()
        assert (message["text"], message["gaps"], message["repaired"]) == ("abcde", [], 5)
        assert [shown["text"] for shown in await follow(room, delivered)] == ["abcde"]

    async def test_a_publish_without_acknowledgement_is_repaired(self, room, house):
        async with channel_of(house.server, ack_timeout_s=3.0) as hasty:
            with room.faults.on("lose_acks", nth=4, channel=room.name):
                async with room.respond("r", channel=hasty) as response:
                    for letter in "abc":
                        response.write(letter)
        assert [name for name, _, _ in await room.channel_events()][-2:] == [
            "response-complete",
            "stop",
        ]
        assert (await room.shown())["r"] == ("abc", "completed")

    async def test_a_refused_stop_leaves_the_text_committed_and_the_lease_in_place(
        self, room, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.publish.response_writer.PUBLISH_ATTEMPTS", 2)
        room.faults.set("refuse_publish", after=2, code=42911, channel=room.name)
        with pytest.raises(ChannelUnavailable):
            async with room.respond("r") as response:
                response.write("abc")
        assert await room.stored() == {"r": ("abc", "completed")}
        lease = await room.lease("r")
        assert (lease.stop_acked, lease.holder is None) == (False, False)

    @pytest.mark.parametrize(
        ("parts", "text"),
        [([{"type": "text", "text": "better"}], "better"), ([], ""), (None, "draft")],
        ids=["other", "none", "not given"],
    )
    async def test_the_final_parts_are_shown_to_every_reader(self, room, parts, text):
        async with room.deliveries() as delivered:
            async with room.respond("r") as response:
                response.write("draft")
                response.finish(parts=parts)
            async with asyncio.timeout(PATIENCE_S):
                while not delivered or delivered[-1].name != "stop":  # noqa: ASYNC110 - filled by the SDK
                    await asyncio.sleep(0.01)
        assert (await room.shown())["r"] == (text, "completed")
        assert [shown["text"] for shown in await follow(room, delivered)] == [text]
        assert ("response-complete" in [m.name for m in delivered]) is (parts is not None)
        await room.catch_up()
        assert await room.stored() == {"r": (text, "completed")}

    async def test_final_parts_that_do_not_fit_are_a_pointer_to_the_store(self, room):
        long = "語" * 30_000
        async with room.respond("r") as response:
            response.write("draft")
            response.finish(parts=[{"type": "text", "text": long}])
        repair = next(m for m in await room.on_channel() if m.name == "response-complete")
        assert repair.data is None
        hydrated = await room.hydrate()
        assert ([m["text"] for m in hydrated.messages], hydrated.complete) == ([long], True)

    @pytest.mark.parametrize("count", [3_000, 5_000, 7_500, 11_000])
    async def test_a_repair_that_json_escaping_makes_longer_is_published(self, room, count):
        async with room.respond("r") as response:
            response.write("draft")
            response.finish(parts=[{"type": "text", "text": "語" * count}])
        assert [name for name, _, _ in await room.channel_events()][-1] == "stop"
        assert (await room.lease("r")).stop_acked
        assert (await room.shown())["r"] == ("語" * count, "completed")


async def follow(room, delivered):
    """Return what a reader shows that was attached from the start."""
    view = View({"messages": [], "reasons": []})
    for message in delivered:
        live = SimpleNamespace(**message._asdict(), timestamp=message.timestamp_ms)
        if not view.apply(live):
            view = View(json.loads((await room.hydrate()).body))
    return view.messages

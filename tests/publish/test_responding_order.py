"""Law 7 with a real store and channel: durable before announced, and announced eventually."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from rehydrate.core.client_view import View
from rehydrate.errors import ChannelUnavailable
from shared_adapters import HookedPort, Latch, channel_of, within
from waiting import PATIENCE_S


@pytest.fixture
def often(monkeypatch):
    """Checkpoints every few milliseconds."""
    monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)


class TestLaw7:
    async def test_the_text_is_committed_then_repaired_then_stopped(self, chat):
        commit, repair, stop = Latch(), Latch(), Latch()
        ending = False

        async def before_lock():
            if ending:
                await commit()

        store = HookedPort(chat.store, locked=before_lock)
        channel = HookedPort(chat.channel, **{"response-complete": repair, "stop": stop})

        async def publish():
            nonlocal ending
            async with chat.respond("r", store=store, channel=channel) as response:
                response.write("draft")
                response.finish(parts=[{"type": "text", "text": "final"}])
                ending = True

        publishing = chat.adapters.spawn(publish())
        await commit.reached()
        await chat.wait_for_history(2)
        assert [name for name, _, _ in await chat.channel_events()] == ["start", "token"]
        assert await chat.shown() == {"r": ("draft", "in_progress")}
        commit.open()
        await repair.reached()
        assert await chat.stored() == {"r": ("final", "completed")}
        assert [name for name, _, _ in await chat.channel_events()] == ["start", "token"]
        repair.open()
        await stop.reached()
        assert await chat.channel_events() == [
            ("start", 0, 1),
            ("token", 1, 1),
            ("response-complete", 1, 1),
        ]
        lease = await chat.lease("r")
        assert (lease.stop_acked, lease.holder is None) == (False, False)
        stop.open()
        await within(publishing)
        assert (await chat.channel_events())[-1] == ("stop", 2, 1)
        assert (await chat.lease("r")).stop_acked

    @pytest.mark.parametrize("refused", [2, [2, 4], [1]], ids=str)
    async def test_a_refused_publish_is_repaired_for_readers(self, chat, refused):
        async with chat.deliveries() as delivered:
            with chat.faults.on("refuse_publish", nth=refused, code=42911, channel=chat.name):
                async with chat.respond("r") as response:
                    for letter in "abcde":
                        response.write(letter)
            async with asyncio.timeout(PATIENCE_S):
                while not delivered or delivered[-1].name != "stop":  # noqa: ASYNC110 - filled by the SDK
                    await asyncio.sleep(0.01)
        names = [m.name for m in delivered]
        assert names[-2:] == ["response-complete", "stop"]
        message = await chat.message()
        assert (message["text"], message["gaps"], message["repaired"]) == ("abcde", [], 5)
        assert [shown["text"] for shown in await follow(chat, delivered)] == ["abcde"]

    async def test_a_publish_without_acknowledgement_is_repaired(self, chat, adapters):
        async with channel_of(adapters.server, ack_timeout_s=3.0) as hasty:
            with chat.faults.on("lose_acks", nth=4, channel=chat.name):
                async with chat.respond("r", channel=hasty) as response:
                    for letter in "abc":
                        response.write(letter)
        assert [name for name, _, _ in await chat.channel_events()][-2:] == [
            "response-complete",
            "stop",
        ]
        assert (await chat.shown())["r"] == ("abc", "completed")

    async def test_a_refused_stop_leaves_the_text_committed_and_the_lease_in_place(
        self, chat, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.publish.response_writer.PUBLISH_ATTEMPTS", 2)
        chat.faults.set("refuse_publish", after=2, code=42911, channel=chat.name)
        with pytest.raises(ChannelUnavailable):
            async with chat.respond("r") as response:
                response.write("abc")
        assert await chat.stored() == {"r": ("abc", "completed")}
        lease = await chat.lease("r")
        assert (lease.stop_acked, lease.holder is None) == (False, False)

    @pytest.mark.parametrize(
        ("parts", "text"),
        [([{"type": "text", "text": "better"}], "better"), ([], ""), (None, "draft")],
        ids=["other", "none", "not given"],
    )
    async def test_the_final_parts_are_shown_to_every_reader(self, chat, parts, text):
        async with chat.deliveries() as delivered:
            async with chat.respond("r") as response:
                response.write("draft")
                response.finish(parts=parts)
            async with asyncio.timeout(PATIENCE_S):
                while not delivered or delivered[-1].name != "stop":  # noqa: ASYNC110 - filled by the SDK
                    await asyncio.sleep(0.01)
        assert (await chat.shown())["r"] == (text, "completed")
        assert [shown["text"] for shown in await follow(chat, delivered)] == [text]
        assert ("response-complete" in [m.name for m in delivered]) is (parts is not None)
        await chat.catch_up()
        assert await chat.stored() == {"r": (text, "completed")}

    async def test_final_parts_that_do_not_fit_are_a_pointer_to_the_store(self, chat):
        long = "語" * 30_000
        async with chat.respond("r") as response:
            response.write("draft")
            response.finish(parts=[{"type": "text", "text": long}])
        repair = next(m for m in await chat.on_channel() if m.name == "response-complete")
        assert repair.data is None
        hydrated = await chat.hydrate()
        assert ([m["text"] for m in hydrated.messages], hydrated.complete) == ([long], True)

    @pytest.mark.parametrize("count", [3_000, 5_000, 7_500, 11_000])
    async def test_a_repair_that_json_escaping_makes_longer_is_published(self, chat, count):
        async with chat.respond("r") as response:
            response.write("draft")
            response.finish(parts=[{"type": "text", "text": "語" * count}])
        assert [name for name, _, _ in await chat.channel_events()][-1] == "stop"
        assert (await chat.lease("r")).stop_acked
        assert (await chat.shown())["r"] == ("語" * count, "completed")


async def follow(chat, delivered):
    """Return what a reader shows that was attached from the start."""
    view = View({"messages": [], "reasons": []})
    for message in delivered:
        live = SimpleNamespace(**message._asdict(), timestamp=message.timestamp_ms)
        if not view.apply(live):
            view = View(json.loads((await chat.hydrate()).body))
    return view.messages

"""Catch up over a real Postgres and a real channel server: folds under the lock, page by page."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from laws.memory import MemoryChannel, MemoryStore, memory_context
from rehydrate.errors import (
    BadParameter,
    ChannelUnavailable,
    Conflict,
    RehydrateError,
    StoreUnavailable,
)
from rehydrate.ports import Outgoing
from rehydrate.record.catch_up import PAGE, catch_up
from shared_adapters import HookedPort, Latch, now_ms, within


class TestCatchUp:
    async def test_the_channels_messages_are_stored(self, chat):
        await chat.publish_message("user-input", {"promptId": "p", "text": "hi"}, client_id="ann")
        await chat.publish_response("r", "abc")
        recorded = await chat.catch_up()
        assert (recorded.messages, recorded.counts, recorded.moved) == (6, {"folded": 6}, True)
        chat.adapters.server.expire(chat.name)
        assert await chat.shown() == {"p": ("hi", "completed"), "r": ("abc", "completed")}

    async def test_an_empty_channel_creates_no_row(self, chat):
        recorded = await chat.catch_up()
        assert (recorded.messages, recorded.moved) == (0, True)
        assert await chat.row() is None

    async def test_the_watermark_has_the_newest_message_and_the_time_of_the_read(self, chat):
        before = now_ms()
        last = await chat.publish_response("r", "ab")
        await chat.catch_up()
        watermark = (await chat.row()).watermark
        assert watermark.serial == last
        assert before <= watermark.read_at_ms <= now_ms()

    async def test_repeating_it_changes_nothing(self, chat):
        await chat.publish_response("r", "abc")
        await chat.publish_message("token", "x")
        await chat.catch_up()
        first = (await chat.hydrate()).messages
        for _ in range(3):
            recorded = await chat.catch_up()
            assert not recorded.counts["folded"]
        assert (await chat.hydrate()).messages == first

    async def test_later_messages_continue_a_stored_response(self, chat):
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        await chat.publish_response("r", "cd", start=False, first=3)
        await chat.catch_up()
        assert await chat.stored() == {"r": ("abcd", "completed")}

    async def test_messages_that_no_codec_recognises_are_ignored_and_counted(self, chat):
        await chat.publish_message("odd", {"a": 1})
        await chat.publish_message("token", {}, responseId="r", seq=1)
        await chat.publish_message("token", "x", responseId="r", seq="nonsense")
        await chat.publish_message("\x01", "x")
        await chat.publish_message("token", "b", responseId="r", seq=2)
        recorded = await chat.catch_up()
        assert (recorded.messages, recorded.counts) == (
            5,
            {"folded": 2, "unreadable": 1, "ignored": 3},
        )
        assert await chat.shown() == {"r": ("b", "in_progress")}

    async def test_a_message_with_an_odd_id_does_not_prevent_recording(self, chat):
        await chat.channel.publish(chat.name, [Outgoing("token", "a", "nul \x00")])
        await chat.publish_response("r", "x")
        await chat.catch_up()
        assert sorted(text for text, _ in (await chat.shown()).values()) == ["a", "x"]

    async def test_more_messages_than_a_page_are_folded_page_by_page(self, chat, monkeypatch):
        monkeypatch.setattr("rehydrate.record.catch_up.PAGE", 2)
        text = "abcdefg"
        await chat.publish_response("r", text)
        recorded = await chat.catch_up()
        assert recorded.messages == len(text) + 2
        assert await chat.stored() == {"r": (text, "completed")}
        assert PAGE >= 1000

    async def test_committed_pages_stay_when_the_channel_fails_in_the_middle(
        self, chat, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.record.catch_up.PAGE", 2)
        await chat.publish_response("r", "abcd")

        failing = []

        async def vanish():
            if chat.faults.is_on("fail_history"):
                return
            row = await chat.row()
            if row is not None and row.watermark is not None:
                failing.append(chat.faults.set("fail_history", status=500))

        with pytest.raises(ChannelUnavailable):
            await within(chat.catch_up(channel=HookedPort(chat.channel, page=vanish)))
        assert failing[0].fired
        chat.faults.clear()
        assert (await chat.row()).watermark.read_at_ms == 0
        assert (await chat.shown())["r"] == ("abcd", "completed")
        await chat.catch_up()
        assert await chat.stored() == {"r": ("abcd", "completed")}

    async def test_a_lost_interval_is_stored_with_the_watermark_that_passes_it(
        self, chat, adapters
    ):
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        adapters.server.expire(chat.name)
        await chat.publish_message("token", "d", responseId="r", seq=4)
        await chat.catch_up(ahead_ms=200_000)
        assert len((await chat.row()).holes) == 1
        hydrated = await chat.hydrate(ahead_ms=200_000)
        assert [r.code for r in hydrated.reasons] == ["history_expired", "not_exact"]
        assert [(m["text"], m["gaps"]) for m in hydrated.messages] == [("abd", [[3, 3]])]
        await chat.catch_up(ahead_ms=200_000)
        assert len((await chat.row()).holes) == 1

    async def test_a_lost_interval_makes_open_text_without_seq_inexact(self, chat, adapters):
        await chat.publish_message("start", responseId="r")
        await chat.publish_message("token", "a", responseId="r")
        await chat.catch_up()
        adapters.server.expire(chat.name)
        await chat.publish_message("token", "c", responseId="r")
        await chat.catch_up(ahead_ms=200_000)
        (message,) = (await chat.hydrate(ahead_ms=200_000)).messages
        assert (message["text"], message["exact"]) == ("ac", False)

    async def test_a_bad_conversation_id_is_refused(self, chat):
        chat.id = "[x"
        with pytest.raises(BadParameter):
            await chat.catch_up()


class TestConcurrency:
    async def test_of_two_that_read_one_commits(self, chat):
        await chat.publish_response("r", "abc", stop=False)
        await chat.publish_message("token", "x")
        meeting = asyncio.Barrier(2)
        store = HookedPort(chat.store, locked=meeting.wait)
        both = await within(asyncio.gather(chat.catch_up(store=store), chat.catch_up(store=store)))
        assert sorted(each.moved for each in both) == [False, True]
        assert ("abc", "in_progress") in (await chat.stored()).values()
        assert [text for text, _ in (await chat.shown()).values()] == ["abc", "x"]

    async def test_a_slower_one_that_read_less_undoes_nothing(self, chat):
        await chat.publish_response("r", "ab", stop=False)
        latch = Latch()
        slow = chat.adapters.spawn(chat.catch_up(store=HookedPort(chat.store, locked=latch)))
        await latch.reached()
        await chat.publish_response("r", "cd", start=False, first=3)
        assert (await chat.catch_up()).moved
        latch.open()
        assert not (await within(slow)).moved
        assert await chat.stored() == {"r": ("abcd", "completed")}

    async def test_it_does_not_reopen_a_response_that_finishes_meanwhile(self, chat):
        latch = Latch()
        async with chat.respond("r") as response:
            for letter in "abc":
                response.write(letter)
            await chat.wait_for_history(4)
            slow = chat.adapters.spawn(chat.catch_up(store=HookedPort(chat.store, locked=latch)))
            await latch.reached()
        final = await chat.stored()
        latch.open()
        await within(slow)
        assert final == await chat.stored() == {"r": ("abc", "completed")}
        await chat.catch_up()
        assert await chat.stored() == final

    async def test_it_agrees_with_a_publisher_that_continues(self, chat, monkeypatch):
        monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)
        text = "".join(chr(0x3041 + index % 80) for index in range(120))
        async with chat.respond("r") as response:
            for index, letter in enumerate(text):
                response.write(letter)
                if index % 20 == 19:
                    await chat.catch_up()
            assert (await chat.hydrate()).messages[0]["gaps"] == []
        await chat.catch_up()
        assert await chat.stored() == {"r": (text, "completed")}


class _Refusing:
    """A store that cannot hold the message *refused*, as a transaction that fails when it is put."""

    def __init__(self, store, refused, error=Conflict):
        self._store, self._refused, self._error = store, refused, error
        self.fired = 0

    async def load(self, *args, **more):
        return await self._store.load(*args, **more)

    @asynccontextmanager
    async def locked(self, *args):
        async with self._store.locked(*args) as held:
            put = held.put

            async def refusing(states):
                if any(self._refused in (state.id, None) for state in states):
                    self.fired += 1
                    raise self._error("it exists")
                await put(states)

            held.put = refusing
            yield held


class TestUnrecordable:
    async def test_the_rest_of_the_page_is_recorded_and_the_message_counted(self, chat, caplog):
        await chat.publish_response("a", "abc")
        await chat.publish_message("user-input", {"promptId": "bad", "text": "secret"})
        await chat.publish_response("b", "de")
        store = _Refusing(chat.store, "bad")
        recorded = await chat.catch_up(store=store)
        assert store.fired
        assert (recorded.moved, recorded.counts["unrecordable"]) == (True, 1)
        stored = await chat.stored()
        assert stored == {"a": ("abc", "completed"), "b": ("de", "completed")}
        assert "1 messages cannot be recorded: Conflict" in caplog.text
        assert "secret" not in caplog.text

    async def test_a_defect_of_the_service_leaves_no_page_out(self, chat):
        await chat.publish_response("a", "abc")
        store = _Refusing(chat.store, None, TypeError)
        with pytest.raises(TypeError):
            await chat.catch_up(store=store)
        assert store.fired
        assert await chat.stored() == {}
        await chat.catch_up()
        assert await chat.stored() == {"a": ("abc", "completed")}

    async def test_a_defect_that_one_message_causes_leaves_that_one_out(self, chat):
        await chat.publish_message("user-input", {"promptId": "bad", "text": "x"})
        await chat.publish_response("a", "abcdefghij")
        recorded = await chat.catch_up(store=_Refusing(chat.store, "bad", TypeError))
        assert recorded.counts["unrecordable"] == 1
        assert await chat.stored() == {"a": ("abcdefghij", "completed")}

    async def test_an_outage_leaves_nothing_out(self, chat):
        await chat.publish_response("a", "abc")

        async def fail():
            raise StoreUnavailable("it is down")

        with pytest.raises(StoreUnavailable):
            await chat.catch_up(store=HookedPort(chat.store, locked=fail))
        assert (await chat.catch_up()).counts["folded"] == 5

    async def test_where_nothing_can_be_recorded_the_error_is_raised(self, chat):
        await chat.publish_response("a", "abc")

        async def fail():
            raise Conflict("whatever is recorded")

        with pytest.raises(RehydrateError, match="cannot be recorded"):
            await chat.catch_up(store=HookedPort(chat.store, locked=fail))


async def test_an_edit_stays_noted_until_it_was_read():
    store, channel = MemoryStore(), MemoryChannel([])
    ctx = memory_context(store, channel, lambda: 60_000)
    ctx.note_edit("ai:c", 7_000)
    ctx.note_edit("ai:c", 9_000)
    failing = replace(ctx, channel=FailingChannel())
    with pytest.raises(ChannelUnavailable):
        await catch_up(failing, "c")
    assert ctx.edited_ms.get("ai:c") == 7_000
    assert (await catch_up(ctx, "c")).edited
    assert ctx.edited_ms.get("ai:c") is None
    assert not (await catch_up(ctx, "c")).edited


class FailingChannel:
    async def history(self, _, **__):
        raise ChannelUnavailable("away")
        yield []

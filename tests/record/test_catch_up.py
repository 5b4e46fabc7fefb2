"""Catch up over a real Postgres and a real channel server: folds under the lock, page by page."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from exactness.rooms import Gate, Paused, now_ms, open_house, within
from rehydrate.errors import (
    BadParameter,
    ChannelUnavailable,
    Conflict,
    RehydrateError,
    StoreUnavailable,
)
from rehydrate.ports import Outgoing
from rehydrate.record.catch_up import PAGE


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


class TestCatchUp:
    async def test_the_channels_messages_are_stored(self, room):
        await room.publish_message("user-input", {"promptId": "p", "text": "hi"}, client_id="ann")
        await room.publish_response("r", "abc")
        recorded = await room.catch_up()
        assert (recorded.messages, recorded.counts, recorded.moved) == (6, {"folded": 6}, True)
        room.house.server.expire(room.name)
        assert await room.shown() == {"p": ("hi", "completed"), "r": ("abc", "completed")}

    async def test_an_empty_channel_creates_no_row(self, room):
        recorded = await room.catch_up()
        assert (recorded.messages, recorded.moved) == (0, True)
        assert await room.row() is None

    async def test_the_watermark_has_the_newest_message_and_the_time_of_the_read(self, room):
        before = now_ms()
        last = await room.publish_response("r", "ab")
        await room.catch_up()
        watermark = (await room.row()).watermark
        assert watermark.serial == last
        assert before <= watermark.read_at_ms <= now_ms()

    async def test_repeating_it_changes_nothing(self, room):
        await room.publish_response("r", "abc")
        await room.publish_message("token", "x")
        await room.catch_up()
        first = (await room.hydrate()).messages
        for _ in range(3):
            recorded = await room.catch_up()
            assert not recorded.counts["folded"]
        assert (await room.hydrate()).messages == first

    async def test_later_messages_continue_a_stored_response(self, room):
        await room.publish_response("r", "ab", stop=False)
        await room.catch_up()
        await room.publish_response("r", "cd", start=False, first=3)
        await room.catch_up()
        assert await room.stored() == {"r": ("abcd", "completed")}

    async def test_messages_that_no_codec_recognises_are_ignored_and_counted(self, room):
        await room.publish_message("odd", {"a": 1})
        await room.publish_message("token", {}, responseId="r", seq=1)
        await room.publish_message("token", "x", responseId="r", seq="nonsense")
        await room.publish_message("\x01", "x")
        await room.publish_message("token", "b", responseId="r", seq=2)
        recorded = await room.catch_up()
        assert (recorded.messages, recorded.counts) == (5, {"folded": 2, "ignored": 3})
        assert await room.shown() == {"r": ("b", "in_progress")}

    async def test_a_message_with_an_odd_id_does_not_prevent_recording(self, room):
        await room.channel.publish(room.name, [Outgoing("token", "a", "nul \x00")])
        await room.publish_response("r", "x")
        await room.catch_up()
        assert sorted(text for text, _ in (await room.shown()).values()) == ["a", "x"]

    async def test_more_messages_than_a_page_are_folded_page_by_page(self, room, monkeypatch):
        monkeypatch.setattr("rehydrate.record.catch_up.PAGE", 2)
        text = "abcdefg"
        await room.publish_response("r", text)
        recorded = await room.catch_up()
        assert recorded.messages == len(text) + 2
        assert await room.stored() == {"r": (text, "completed")}
        assert PAGE >= 1000

    async def test_committed_pages_stay_when_the_channel_fails_in_the_middle(
        self, room, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.record.catch_up.PAGE", 2)
        await room.publish_response("r", "abcd")

        failing = []

        async def vanish():
            if room.faults.is_on("fail_history"):
                return
            row = await room.row()
            if row is not None and row.watermark is not None:
                failing.append(room.faults.set("fail_history", status=500))

        with pytest.raises(ChannelUnavailable):
            await within(room.catch_up(channel=Paused(room.channel, page=vanish)))
        assert failing[0].fired
        room.faults.clear()
        assert (await room.row()).watermark.read_at_ms == 0
        assert (await room.shown())["r"] == ("abcd", "completed")
        await room.catch_up()
        assert await room.stored() == {"r": ("abcd", "completed")}

    async def test_a_lost_interval_is_stored_with_the_watermark_that_passes_it(self, room, house):
        await room.publish_response("r", "ab", stop=False)
        await room.catch_up()
        house.server.expire(room.name)
        await room.publish_message("token", "d", responseId="r", seq=4)
        await room.catch_up(ahead_ms=200_000)
        assert len((await room.row()).holes) == 1
        hydrated = await room.hydrate(ahead_ms=200_000)
        assert [r.code for r in hydrated.reasons] == ["history_expired", "not_exact"]
        assert [(m["text"], m["gaps"]) for m in hydrated.messages] == [("abd", [[3, 3]])]
        await room.catch_up(ahead_ms=200_000)
        assert len((await room.row()).holes) == 1

    async def test_a_lost_interval_makes_open_text_without_seq_inexact(self, room, house):
        await room.publish_message("start", responseId="r")
        await room.publish_message("token", "a", responseId="r")
        await room.catch_up()
        house.server.expire(room.name)
        await room.publish_message("token", "c", responseId="r")
        await room.catch_up(ahead_ms=200_000)
        (message,) = (await room.hydrate(ahead_ms=200_000)).messages
        assert (message["text"], message["exact"]) == ("ac", False)

    async def test_a_bad_conversation_id_is_refused(self, room):
        room.id = "[x"
        with pytest.raises(BadParameter):
            await room.catch_up()


class TestConcurrency:
    async def test_of_two_that_read_one_commits(self, room):
        await room.publish_response("r", "abc", stop=False)
        await room.publish_message("token", "x")
        meeting = asyncio.Barrier(2)
        store = Paused(room.store, locked=meeting.wait)
        both = await within(asyncio.gather(room.catch_up(store=store), room.catch_up(store=store)))
        assert sorted(each.moved for each in both) == [False, True]
        assert ("abc", "in_progress") in (await room.stored()).values()
        assert [text for text, _ in (await room.shown()).values()] == ["abc", "x"]

    async def test_a_slower_one_that_read_less_undoes_nothing(self, room):
        await room.publish_response("r", "ab", stop=False)
        gate = Gate()
        slow = room.house.spawn(room.catch_up(store=Paused(room.store, locked=gate)))
        await gate.reached()
        await room.publish_response("r", "cd", start=False, first=3)
        assert (await room.catch_up()).moved
        gate.open()
        assert not (await within(slow)).moved
        assert await room.stored() == {"r": ("abcd", "completed")}

    async def test_it_does_not_reopen_a_response_that_finishes_meanwhile(self, room):
        gate = Gate()
        async with room.respond("r") as response:
            for letter in "abc":
                response.write(letter)
            await room.wait_for_history(4)
            slow = room.house.spawn(room.catch_up(store=Paused(room.store, locked=gate)))
            await gate.reached()
        final = await room.stored()
        gate.open()
        await within(slow)
        assert final == await room.stored() == {"r": ("abc", "completed")}
        await room.catch_up()
        assert await room.stored() == final

    async def test_it_agrees_with_a_publisher_that_continues(self, room, monkeypatch):
        monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.01)
        text = "".join(chr(0x3041 + index % 80) for index in range(120))
        async with room.respond("r") as response:
            for index, letter in enumerate(text):
                response.write(letter)
                if index % 20 == 19:
                    await room.catch_up()
            assert (await room.hydrate()).messages[0]["gaps"] == []
        await room.catch_up()
        assert await room.stored() == {"r": (text, "completed")}


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
    async def test_the_rest_of_the_page_is_recorded_and_the_message_counted(self, room, caplog):
        await room.publish_response("a", "abc")
        await room.publish_message("user-input", {"promptId": "bad", "text": "secret"})
        await room.publish_response("b", "de")
        store = _Refusing(room.store, "bad")
        recorded = await room.catch_up(store=store)
        assert store.fired
        assert (recorded.moved, recorded.counts["unrecordable"]) == (True, 1)
        stored = await room.stored()
        assert stored == {"a": ("abc", "completed"), "b": ("de", "completed")}
        assert "1 messages cannot be recorded: Conflict" in caplog.text
        assert "secret" not in caplog.text

    async def test_a_defect_of_the_service_leaves_no_page_out(self, room):
        await room.publish_response("a", "abc")
        store = _Refusing(room.store, None, TypeError)
        with pytest.raises(TypeError):
            await room.catch_up(store=store)
        assert store.fired
        assert await room.stored() == {}
        await room.catch_up()
        assert await room.stored() == {"a": ("abc", "completed")}

    async def test_a_defect_that_one_message_causes_leaves_that_one_out(self, room):
        await room.publish_message("user-input", {"promptId": "bad", "text": "x"})
        await room.publish_response("a", "abcdefghij")
        recorded = await room.catch_up(store=_Refusing(room.store, "bad", TypeError))
        assert recorded.counts["unrecordable"] == 1
        assert await room.stored() == {"a": ("abcdefghij", "completed")}

    async def test_an_outage_leaves_nothing_out(self, room):
        await room.publish_response("a", "abc")

        async def fail():
            raise StoreUnavailable("it is down")

        with pytest.raises(StoreUnavailable):
            await room.catch_up(store=Paused(room.store, locked=fail))
        assert (await room.catch_up()).counts["folded"] == 5

    async def test_where_nothing_can_be_recorded_the_error_is_raised(self, room):
        await room.publish_response("a", "abc")

        async def fail():
            raise Conflict("whatever is recorded")

        with pytest.raises(RehydrateError, match="cannot be recorded"):
            await room.catch_up(store=Paused(room.store, locked=fail))

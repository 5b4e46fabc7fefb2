"""Record over real rooms: hydration that commits, and messages that a backend hands over."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from exactness.rooms import Gate, Paused, now_ms, open_house, until, within
from rehydrate.errors import BadParameter, ChannelUnavailable, StoreUnavailable
from rehydrate.ports import Outgoing
from rehydrate.record.catch_up import PAGE, Recorded, Recorder


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


class TestCatchUp:
    async def test_what_the_channel_says_is_stored(self, room):
        await room.say("user-input", {"promptId": "p", "text": "hi"}, client_id="ann")
        await room.tell("r", "abc")
        recorded = await room.catch_up()
        assert (recorded.messages, recorded.counts, recorded.moved) == (6, {"folded": 6}, True)
        room.house.server.expire(room.name)
        assert await room.shown() == {"p": ("hi", "completed"), "r": ("abc", "completed")}

    async def test_nobody_gets_a_row_by_asking(self, room):
        recorded = await room.catch_up()
        assert (recorded.messages, recorded.moved) == (0, True)
        assert await room.row() is None

    async def test_the_watermark_is_the_newest_message_and_when_it_was_read(self, room):
        before = now_ms()
        last = await room.tell("r", "ab")
        await room.catch_up()
        watermark = (await room.row()).watermark
        assert watermark.serial == last
        assert before <= watermark.read_at_ms <= now_ms()

    async def test_again_and_again_changes_nothing(self, room):
        await room.tell("r", "abc")
        await room.say("token", "x")
        await room.catch_up()
        first = (await room.hydrate()).messages
        for _ in range(3):
            recorded = await room.catch_up()
            assert not recorded.counts["folded"]
        assert (await room.hydrate()).messages == first

    async def test_what_comes_later_goes_on_from_what_is_stored(self, room):
        await room.tell("r", "ab", stop=False)
        await room.catch_up()
        await room.tell("r", "cd", start=False, first=3)
        await room.catch_up()
        assert await room.stored() == {"r": ("abcd", "completed")}

    async def test_messages_that_mean_nothing_are_read_over(self, room):
        await room.say("odd", {"a": 1})
        await room.say("token", {}, responseId="r", seq=1)
        await room.say("token", "x", responseId="r", seq="nonsense")
        await room.say("\x01", "x")
        await room.say("token", "b", responseId="r", seq=2)
        recorded = await room.catch_up()
        assert (recorded.messages, recorded.counts) == (5, {"folded": 2, "ignored": 3})
        assert await room.shown() == {"r": ("b", "in_progress")}

    async def test_an_odd_id_of_a_message_keeps_nothing_from_being_recorded(self, room):
        await room.channel.publish(room.name, [Outgoing("token", "a", "nul \x00")])
        await room.tell("r", "x")
        await room.catch_up()
        assert sorted(text for text, _ in (await room.shown()).values()) == ["a", "x"]

    async def test_more_than_a_page_is_folded_page_by_page(self, room, monkeypatch):
        monkeypatch.setattr("rehydrate.record.catch_up.PAGE", 2)
        text = "abcdefg"
        await room.tell("r", text)
        recorded = await room.catch_up()
        assert recorded.messages == len(text) + 2
        assert await room.stored() == {"r": (text, "completed")}
        assert PAGE >= 1000

    async def test_what_was_committed_stays_when_the_channel_goes_away_in_the_middle(
        self, room, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.record.catch_up.PAGE", 2)
        await room.tell("r", "abcd")

        async def vanish():
            if room.faults.is_on("fail_history"):
                return
            row = await room.row()
            if row is not None and row.watermark is not None:
                room.faults.set("fail_history", status=500)

        with pytest.raises(ChannelUnavailable):
            await within(room.catch_up(channel=Paused(room.channel, page=vanish)))
        room.faults.clear()
        assert (await room.row()).watermark.read_at_ms == 0
        assert (await room.shown())["r"] == ("abcd", "completed")
        await room.catch_up()
        assert await room.stored() == {"r": ("abcd", "completed")}

    async def test_a_hole_is_stored_with_the_watermark_that_passes_it(self, room, house):
        await room.tell("r", "ab", stop=False)
        await room.catch_up()
        house.server.expire(room.name)
        await room.say("token", "d", responseId="r", seq=4)
        await room.catch_up(ahead_ms=200_000)
        assert len((await room.row()).holes) == 1
        hydrated = await room.hydrate(ahead_ms=200_000)
        assert [r.code for r in hydrated.reasons] == ["history_expired"]
        assert [(m["text"], m["gaps"]) for m in hydrated.messages] == [("abd", [[3, 3]])]
        await room.catch_up(ahead_ms=200_000)
        assert len((await room.row()).holes) == 1

    async def test_a_hole_makes_open_text_without_seq_inexact(self, room, house):
        await room.say("start", responseId="r")
        await room.say("token", "a", responseId="r")
        await room.catch_up()
        house.server.expire(room.name)
        await room.say("token", "c", responseId="r")
        await room.catch_up(ahead_ms=200_000)
        (message,) = (await room.hydrate(ahead_ms=200_000)).messages
        assert (message["text"], message["exact"]) == ("ac", False)

    async def test_a_bad_conversation_id_is_refused(self, room):
        room.id = "[x"
        with pytest.raises(BadParameter):
            await room.catch_up()


class TestTwoAtOnce:
    async def test_both_read_and_one_commits(self, room):
        await room.tell("r", "abc", stop=False)
        await room.say("token", "x")
        meeting = asyncio.Barrier(2)
        store = Paused(room.store, locked=meeting.wait)
        both = await within(asyncio.gather(room.catch_up(store=store), room.catch_up(store=store)))
        assert sorted(each.moved for each in both) == [False, True]
        assert ("abc", "in_progress") in (await room.stored()).values()
        assert [text for text, _ in (await room.shown()).values()] == ["abc", "x"]

    async def test_the_slower_one_read_less_and_undoes_nothing(self, room):
        await room.tell("r", "ab", stop=False)
        gate = Gate()
        slow = room.house.spawn(room.catch_up(store=Paused(room.store, locked=gate)))
        await gate.reached()
        await room.tell("r", "cd", start=False, first=3)
        assert (await room.catch_up()).moved
        gate.open()
        assert not (await within(slow)).moved
        assert await room.stored() == {"r": ("abcd", "completed")}

    async def test_beside_a_publisher_that_finishes(self, room):
        gate = Gate()
        async with room.respond("r") as response:
            for letter in "abc":
                response.write(letter)
            await room.heard(4)
            slow = room.house.spawn(room.catch_up(store=Paused(room.store, locked=gate)))
            await gate.reached()
        final = await room.stored()
        gate.open()
        await within(slow)
        assert final == await room.stored() == {"r": ("abc", "completed")}
        await room.catch_up()
        assert await room.stored() == final

    async def test_beside_a_publisher_that_goes_on(self, room, monkeypatch):
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


class Counting:
    """Records by counting; raises, or waits, where it is told to."""

    def __init__(self):
        self.seen = Counter()
        self.faults = {}
        self.gate = None

    async def __call__(self, conversation_id):
        if self.gate is not None:
            await self.gate()
        self.seen[conversation_id] += 1
        if conversation_id in self.faults:
            raise self.faults[conversation_id]
        return Recorded(0, Counter(), moved=True)


@pytest.fixture
async def counting():
    return Counting()


@pytest.fixture
async def recorder(counting):
    made = Recorder(counting, pause_s=0.01, capacity=3)
    made.open()
    yield made
    await made.close()


class TestRecorder:
    async def test_a_conversation_is_recorded_once_however_often_woken(self, recorder, counting):
        for _ in range(50):
            recorder.wake("a")
        recorder.wake("b")
        await until(lambda: counting.seen["b"])
        assert counting.seen == {"a": 1, "b": 1}

    async def test_woken_while_it_is_recorded_it_is_recorded_again(self, recorder, counting):
        counting.gate = Gate()
        recorder.wake("a")
        await counting.gate.reached()
        recorder.wake("a")
        counting.gate.open()
        await until(lambda: counting.seen["a"] == 2)

    async def test_one_that_cannot_be_recorded_is_tried_again_and_holds_up_nobody(
        self, recorder, counting, caplog
    ):
        counting.faults["secret-id"] = StoreUnavailable("away")
        with caplog.at_level(logging.WARNING):
            recorder.wake("secret-id")
            recorder.wake("b")
            await until(lambda: counting.seen["secret-id"] >= 3)
        assert counting.seen["b"] == 1
        assert "secret-id" not in caplog.text
        del counting.faults["secret-id"]
        seen = counting.seen["secret-id"]
        await until(lambda: counting.seen["secret-id"] > seen)

    async def test_a_fault_of_ours_ends_no_recorder(self, recorder, counting, caplog):
        counting.faults["a"] = KeyError("secret text")
        recorder.wake("a")
        await until(lambda: counting.seen["a"])
        recorder.wake("b")
        await until(lambda: counting.seen["b"])
        assert "KeyError" in caplog.text
        assert "secret text" not in caplog.text

    async def test_no_more_wait_than_there_is_room_for(self, recorder, counting):
        counting.gate = Gate()
        recorder.wake("first")
        await counting.gate.reached()
        for index in range(10):
            recorder.wake(f"c{index}")
        counting.gate.open()
        await until(lambda: counting.seen["c2"])
        assert set(counting.seen) == {"first", "c0", "c1", "c2"}

    async def test_nothing_is_recorded_before_it_is_open_or_after_it_is_closed(self, counting):
        recorder = Recorder(counting, pause_s=0.01)
        recorder.wake("a")
        recorder.open()
        recorder.open()
        recorder.wake("b")
        await until(lambda: counting.seen["b"])
        await recorder.close()
        await recorder.close()
        recorder.wake("c")
        await asyncio.sleep(0)
        assert counting.seen == {"b": 1}

    async def test_closing_ends_what_is_under_way(self, counting):
        recorder = Recorder(counting)
        counting.gate = Gate()
        recorder.open()
        recorder.wake("a")
        await counting.gate.reached()
        await within(recorder.close(), 5)
        assert not counting.seen

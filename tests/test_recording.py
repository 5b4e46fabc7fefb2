"""Record over real rooms: hydration that commits, and messages that a backend hands over."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from exactness.rooms import Gate, Paused, now_ms, open_house, until, within
from rehydrate.core.response import MessageState
from rehydrate.errors import BadParameter, ChannelUnavailable, Conflict, StoreUnavailable
from rehydrate.ports import Outgoing
from rehydrate.recording import PAGE, NewMessage, Recorded, Recorder


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
        assert (recorded.messages, recorded.counts) == (5, {"folded": 2})
        assert await room.shown() == {"r": ("b", "in_progress")}

    async def test_an_odd_id_of_a_message_keeps_nothing_from_being_recorded(self, room):
        await room.channel.publish(room.name, [Outgoing("token", "a", "nul \x00")])
        await room.tell("r", "x")
        await room.catch_up()
        assert sorted(text for text, _ in (await room.shown()).values()) == ["a", "x"]

    async def test_more_than_a_page_is_folded_page_by_page(self, room, monkeypatch):
        monkeypatch.setattr("rehydrate.recording.PAGE", 2)
        text = "abcdefg"
        await room.tell("r", text)
        recorded = await room.catch_up()
        assert recorded.messages == len(text) + 2
        assert await room.stored() == {"r": (text, "completed")}
        assert PAGE >= 1000

    async def test_what_was_committed_stays_when_the_channel_goes_away_in_the_middle(
        self, room, monkeypatch
    ):
        monkeypatch.setattr("rehydrate.recording.PAGE", 2)
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
        later = room.rules._replace(now_ms=lambda: now_ms() + 200_000)
        await room.catch_up(rules=later)
        assert len((await room.row()).holes) == 1
        hydrated = await room.hydrate(rules=later)
        assert [r.code for r in hydrated.reasons] == ["history_expired"]
        assert [(m["text"], m["gaps"]) for m in hydrated.messages] == [("abd", [[3, 3]])]
        await room.catch_up(rules=later)
        assert len((await room.row()).holes) == 1

    async def test_a_hole_makes_open_text_without_seq_inexact(self, room, house):
        await room.say("start", responseId="r")
        await room.say("token", "a", responseId="r")
        await room.catch_up()
        house.server.expire(room.name)
        await room.say("token", "c", responseId="r")
        later = room.rules._replace(now_ms=lambda: now_ms() + 200_000)
        await room.catch_up(rules=later)
        (message,) = (await room.hydrate(rules=later)).messages
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
        assert sorted((await room.stored()).values())[0] == ("abc", "in_progress")
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
            await until_on_channel(room, 4)
            slow = room.house.spawn(room.catch_up(store=Paused(room.store, locked=gate)))
            await gate.reached()
        final = await room.stored()
        gate.open()
        await within(slow)
        assert final == await room.stored() == {"r": ("abc", "completed")}
        await room.catch_up()
        assert await room.stored() == final

    async def test_beside_a_publisher_that_goes_on(self, room, monkeypatch):
        monkeypatch.setattr("rehydrate.publishing.CHECKPOINT_S", 0.01)
        text = "".join(chr(0x3041 + index % 80) for index in range(120))
        async with room.respond("r") as response:
            for index, letter in enumerate(text):
                response.write(letter)
                if index % 20 == 19:
                    await room.catch_up()
            assert (await room.hydrate()).messages[0]["gaps"] == []
        await room.catch_up()
        assert await room.stored() == {"r": (text, "completed")}


async def until_on_channel(room, count):
    """Wait until history shows *count* messages."""
    async with asyncio.timeout(30):
        while len(await room.on_channel()) < count:
            await asyncio.sleep(0.01)


class TestStoreMessages:
    async def test_what_is_stored_is_shown_in_the_order_in_which_it_was_given(self, room):
        result = await room.store_messages(
            NewMessage("p", "user", text="hi"),
            NewMessage(
                "r",
                "assistant",
                status="incomplete",
                parts=[{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "yes"}],
                prompt_id="p",
                usage={"n": 1},
                metadata={"k": "v"},
                started_ms=1_000,
                finished_ms=2_000,
            ),
        )
        assert result == (["p", "r"], [])
        prompt, response = (await room.hydrate()).messages
        assert (prompt["text"], prompt["role"], prompt["parts"]) == ("hi", "user", [])
        assert (response["text"], response["status"], response["prompt_id"]) == (
            "yes",
            "incomplete",
            "p",
        )
        assert (response["usage"], response["metadata"]) == ({"n": 1}, {"k": "v"})
        assert response["started_at"] == "1970-01-01T00:00:01.000Z"
        assert response["finished_at"] == "1970-01-01T00:00:02.000Z"

    async def test_the_same_again_changes_nothing(self, room):
        said = NewMessage("r", "assistant", text="x", usage={"n": 1})
        await room.store_messages(said)
        before = (await room.hydrate()).messages
        assert await room.store_messages(said) == ([], ["r"])
        assert await room.store_messages(NewMessage("r", "assistant", text="x")) == ([], ["r"])
        assert (await room.hydrate()).messages == before

    @pytest.mark.parametrize(
        "other",
        [
            {"text": "y"},
            {"status": "failed"},
            {"role": "user"},
            {"parts": [{"type": "refusal", "text": "x"}]},
            {"prompt_id": "q"},
            {"usage": {"n": 2}},
            {"metadata": {}},
            {"started_ms": 5},
            {"finished_ms": 5},
        ],
        ids=lambda other: next(iter(other)),
    )
    async def test_the_same_id_with_other_content_is_refused_and_nothing_is_stored(
        self, room, other
    ):
        said = {"role": "assistant", "text": "x", "usage": {"n": 1}, "prompt_id": "p"}
        await room.store_messages(NewMessage("r", **said))
        with pytest.raises(Conflict):
            await room.store_messages(
                NewMessage("new", "assistant", text="z"), NewMessage("r", **(said | other))
            )
        assert await room.shown() == {"r": ("x", "completed")}

    async def test_the_same_id_twice_in_one_call_has_to_say_the_same(self, room):
        one, other = NewMessage("r", "assistant", text="x"), NewMessage("r", "assistant", text="y")
        assert (await room.store_messages(one, one)).stored == ["r"]
        with pytest.raises(Conflict):
            await room.store_messages(other, one)

    async def test_an_open_response_of_somebody_else_is_finished(self, room):
        await room.tell("r", "ab", stop=False)
        await room.catch_up()
        assert (await room.store_messages(NewMessage("r", "assistant", text="ab!"))).stored == ["r"]
        assert await room.shown() == {"r": ("ab!", "completed")}
        await room.say("token", "c", responseId="r", seq=3)
        await room.say("stop", responseId="r", seq=4)
        assert await room.shown() == {"r": ("ab!", "completed")}
        await room.catch_up()
        assert await room.shown() == {"r": ("ab!", "completed")}
        assert await room.store_messages(NewMessage("r", "assistant", text="ab!")) == ([], ["r"])

    async def test_what_the_store_knew_before_the_channel_said_it_stays(self, room):
        await room.store_messages(NewMessage("r", "assistant", text="said"))
        await room.tell("r", "other")
        assert await room.shown() == {"r": ("said", "completed")}
        await room.catch_up()
        assert await room.shown() == {"r": ("said", "completed")}

    async def test_a_response_that_is_being_published_is_left_to_its_publisher(self, room):
        async with room.respond("r") as response:
            response.write("x")
            with pytest.raises(Conflict):
                await room.store_messages(NewMessage("r", "assistant", text="y"))
        assert await room.stored() == {"r": ("x", "completed")}

    async def test_an_open_response_does_not_become_a_prompt(self, room):
        await room.tell("r", "ab", stop=False)
        await room.catch_up()
        with pytest.raises(Conflict):
            await room.store_messages(NewMessage("r", "user", text="ab"))

    @pytest.mark.parametrize(
        ("new", "parameter"),
        [
            (NewMessage("", "assistant", text="x"), "id"),
            (NewMessage("a\n", "assistant", text="x"), "id"),
            (NewMessage("x" * 257, "assistant", text="x"), "id"),
            (NewMessage("r", "robot", text="x"), "role"),
            (NewMessage("r", "assistant", status="in_progress", text="x"), "status"),
            (NewMessage("r", "assistant", parts=[{"type": "image"}]), "parts"),
            (NewMessage("r", "assistant", text="x", usage=float("nan")), "usage"),
            (NewMessage("r", "assistant", text="x", metadata={"a": b"b"}), "metadata"),
            (NewMessage("r", "assistant", text=5), "text"),
            (NewMessage("r", "assistant", text="x", prompt_id="\x00"), "prompt_id"),
        ],
        ids=lambda each: each if isinstance(each, str) else "",
    )
    async def test_what_is_no_message_is_refused_before_anything_is_stored(
        self, room, new, parameter
    ):
        with pytest.raises(BadParameter) as caught:
            await room.store_messages(NewMessage("good", "assistant", text="x"), new)
        assert caught.value.parameter == parameter
        assert await room.row() is None

    async def test_gaps_of_an_open_response_close_when_it_is_finished(self, room):
        await room.say("start", responseId="r", seq=0)
        await room.say("token", "c", responseId="r", seq=3)
        await room.catch_up()
        await room.store_messages(NewMessage("r", "assistant", text="abc"))
        (message,) = (await room.hydrate()).messages
        assert (message["text"], message["gaps"], message["exact"]) == ("abc", [], True)
        assert isinstance(MessageState("r").gaps(), list)


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

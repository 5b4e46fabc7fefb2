"""S16 to S20 of docs/exactness.md: "not loaded" is not "does not exist"."""

from __future__ import annotations

import asyncio

import pytest

from exactness.scripted import Scripted, texts
from localably import LocalAbly
from participants import history_over, publisher_to, reading
from rehydrate.errors import Conflict
from rehydrate.ports import Outgoing
from rehydrate.publish.prompts import prompt
from rehydrate.record.erase import erase
from rehydrate.record.import_messages import NewMessage
from shared_adapters import HookedPort, Latch, within

pytestmark = pytest.mark.usefixtures("simulated_time")


@pytest.fixture
def said(adapters):
    return Scripted(adapters.store)


@pytest.fixture
def unordered(adapters):
    """A channel without serials."""
    return Scripted(adapters.store, serials=False)


TRUE = ("The answer.", "completed")


class TestS16AnIdThatIsTaken:
    @pytest.fixture
    async def attacked(self, said):
        """A stored response, and much later an anonymous one whose first id is that response's."""
        said.tell(0, "The answer.", id_="s", responseId="r1")
        said.say(8, "user-input", {"promptId": "p", "text": "?"})
        await said.record(9)
        said.tell(20, "EVIL", id_="r1")
        return said

    async def test_it_is_in_no_answer_under_that_id(self, attacked):
        messages = texts(await attacked.rest(21))
        assert messages["r1"] == TRUE
        assert [text for text, _ in messages.values()].count("EVIL") == 1
        assert "r1" not in texts(await attacked.rest(21, limit=1))

    async def test_recording_goes_on_and_stores_both(self, attacked):
        assert (await attacked.record(21)).moved
        stored = texts(await attacked.stored())
        assert stored == texts(attacked.fresh())
        assert stored["r1"] == TRUE

    async def test_followers_and_clients_show_both(self, attacked):
        for messages in (await attacked.follow(19), await attacked.view(19)):
            assert texts(messages) == texts(attacked.fresh())

    async def test_a_follower_that_has_not_loaded_it_shows_both(self, attacked):
        messages = texts(await attacked.follow(19, limit=1))
        assert "EVIL" not in messages.get("r1", TRUE)

    async def test_an_agent_is_refused_the_id_of_an_anonymous_message(self, chat):
        await chat.adapters.channel.publish(chat.name, [Outgoing("start", None, "r9", None)])
        await chat.catch_up()
        with pytest.raises(Conflict, match="the id of another message"):
            async with chat.respond("r9"):
                pass


class TestS17AnonymousAnswers:
    async def test_a_tail_is_not_shown_inside_an_answer_that_was_abandoned(self, said):
        said.tell(0, "First answer, cut off", stop=False)
        said.say(1, "start")
        said.say(1.1, "token", "Second ")
        await said.record(2)
        said.say(7.6, "token", "answer, of 7 s.")
        said.say(7.7, "stop")
        expected = {"m0": ("First answer, cut off", "in_progress")}
        expected["m2"] = ("Second answer, of 7 s.", "completed")
        assert texts(said.fresh()) == expected
        for at_s in (8, 9):
            assert texts(await said.rest(at_s)) == expected
            assert texts(await said.rest(at_s, limit=1)) == expected
            assert texts(await said.follow(at_s - 1.5)) == expected
            assert texts(await said.view(at_s)) == expected
            await said.record(at_s)
            assert texts(await said.stored()) == expected

    async def test_without_serials_a_new_start_keeps_the_texts_apart(self, unordered):
        unordered.tell(0, "One ", "two ", stop=False)
        unordered.say(6.7, "token", "three ")
        unordered.say(6.8, "token", "four.")
        await unordered.record(7)
        unordered.tell(7.1, "Four ", "five. ", stop=False)
        for at_s in (7.4, 8, 9):
            await unordered.record(at_s)
            assert texts(await unordered.stored()) == texts(unordered.fresh())
        assert texts(await unordered.rest(9)) == {
            "m0": ("One two three four.", "in_progress"),
            "m5": ("Four five. ", "in_progress"),
        }

    async def test_one_id_of_two_events_does_not_fill_a_gap_when_they_are_read_again(self, said):
        said.say(0, "start", id_="x", seq=0)
        said.say(0.1, "token", "lost", id_="x", seq=1)
        await said.record(1)
        await said.rest(1)  # the next answer's history is read from here
        said.say(8, "token", "kept", seq=2)
        await said.record(9)
        assert texts(said.fresh()) == {"x": ("kept", "in_progress")}
        assert texts(await said.rest(10)) == texts(said.fresh())

    async def test_an_old_start_whose_id_an_event_had_begins_no_answer_after_a_rewind(
        self, unordered
    ):
        unordered.tell(0, "One ", stop=False)
        unordered.say(3, "token", "two ", id_="x")
        unordered.say(5.5, "start", id_="x")
        unordered.say(12, "token", "three.")
        await unordered.record(12.1)
        assert list(texts(unordered.fresh())) == ["m0"]
        assert texts(await unordered.follow(12.5, rewind_s=10)) == texts(unordered.fresh())

    async def test_two_whole_answers_within_the_margin_are_recorded_again_and_again(
        self, unordered
    ):
        unordered.tell(0, "One.")
        unordered.tell(1, "Two.")
        for at_s in (2, 3, 4):
            await unordered.record(at_s)
            assert texts(await unordered.stored()) == texts(unordered.fresh())
            assert texts(await unordered.rest(at_s)) == texts(unordered.fresh())

    async def test_a_rewind_brings_no_ended_answer_back(self, unordered):
        unordered.tell(0, "One ", "two.", gap_s=4)
        unordered.tell(13, "Three.")
        assert texts(await unordered.view(12.5)) == texts(unordered.fresh())


class TestS18AMessageOnAnOlderPage:
    @pytest.fixture
    async def server(self):
        async with LocalAbly() as running:
            yield running

    @pytest.fixture
    async def history(self, module_database, server):
        async with history_over(module_database, server) as made:
            yield made

    async def test_an_event_of_it_is_shown_to_no_follower_as_a_new_message(self, history, server):
        conversation = "older"
        old = [NewMessage("p0", "user", text="?"), NewMessage("r0", "assistant", text="old")]
        new = [NewMessage(f"n{n}", "assistant", text=f"{n}") for n in range(250)]
        await history.store_messages(conversation, [*old, *new])
        async with (
            publisher_to(server, f"ai:{conversation}") as publisher,
            reading(history, conversation) as follower,
        ):
            await follower.until(lambda r: "n249" in r.texts)
            await publisher.publish_message("user-input", {"promptId": "p0", "text": "EVIL"})
            await publisher.publish_message("token", "EVIL", rid="r0")
            await publisher.publish_message("token", "new", rid="r1")
            shown = await follower.until(lambda r: r.texts.get("r1") == "new")
            assert "EVIL" not in shown.texts.values()
            assert not {"p0", "r0"} & shown.texts.keys()


class TestS19AnErasureDuringAPublish:
    async def test_a_prompt_under_way_does_not_come_back(self, chat):
        latch = Latch()
        ctx = chat.context(store=HookedPort(chat.store, locked=latch))
        publishing = chat.adapters.spawn(self._prompt(ctx, chat.id))
        await latch.reached()
        await chat.wait_for_history(1)
        await self._erase(chat)
        latch.open()
        with pytest.raises(Conflict, match="erased"):
            await within(publishing)
        assert (await chat.hydrate()).messages == []
        assert await chat.store.states(chat.id, ["p"]) == []

    async def test_the_answer_to_an_erased_prompt_is_refused(self, chat):
        await self._prompt(chat.ctx, chat.id)
        await self._erase(chat)
        with pytest.raises(Conflict, match="erased"):
            async with chat.respond("r", prompt_id="p") as response:
                response.write("an answer to what is gone")
        assert (await chat.hydrate()).messages == []

    async def test_nor_is_a_foreign_answer_to_it_recorded_or_shown(self, chat):
        await chat.publish_message("user-input", {"promptId": "p", "text": "?"})
        await self._erase(chat)
        await asyncio.sleep(0.01)  # the tombstone covers all of its own millisecond
        await chat.publish_message("start", responseId="r", promptId="p")
        await chat.publish_message("token", "gone", responseId="r")
        assert (await chat.hydrate()).messages == []
        await chat.catch_up()
        await chat.publish_message("token", "too", responseId="r")
        await chat.catch_up(ahead_ms=20_000)
        assert (await chat.hydrate(ahead_ms=20_000)).messages == []
        assert (await chat.row()).tombstone.erases("r")

    async def _prompt(self, ctx, conversation):
        await prompt(ctx, conversation, "a question", prompt_id="p")

    async def _erase(self, chat):
        await erase(chat.ctx, chat.id)


class TestS20AForgottenPointer:
    async def test_a_text_stays_inexact_until_it_is_stored(self, said):
        said.say(0, "start", responseId="r", seq=0)
        said.say(0.1, "token", "part of it", responseId="r", seq=1)
        await said.record(0.15)
        said.say(0.2, "response-complete", None, responseId="r", seq=1)
        await said.record(1)
        said.say(20, "user-input", {"promptId": "p", "text": "?"})
        await said.record(21)
        said.say(40, "user-input", {"promptId": "q", "text": "?"})
        messages = {m["id"]: m for m in await said.rest(41)}
        assert messages["r"]["exact"] is False
        said.say(42, "response-complete", "all of it", responseId="r", seq=1)
        await said.record(43)
        messages = {m["id"]: m for m in await said.rest(44)}
        assert (messages["r"]["text"], messages["r"]["exact"]) == ("all of it", True)

    async def test_an_anonymous_one_leaves_no_message_behind(self, said):
        said.say(0, "response-complete", None, id_="x", seq=3)
        said.say(0.1, "token", "a", id_="a")
        said.say(0.2, "token", "b", id_="b")
        for messages in (said.fresh(), await said.rest(1), await said.follow(-1)):
            assert texts(messages) == {"a": ("ab", "in_progress")}


async def test_messages_that_are_known_cost_no_statement(chat):
    await chat.publish_message("user-input", {"promptId": "p", "text": "hi"})
    await chat.publish_response("done", "xyz")
    await chat.publish_response("open", "ab", stop=False)
    for name, data in [("start", None), ("token", "a"), ("stop", None)] * 2:
        await chat.publish_message(name, data)
    await chat.catch_up()
    await chat.publish_message("token", "b", responseId="open", seq=3)
    await chat.publish_message("token", "of the third anonymous answer")
    asked = []

    async def count():
        asked.append(None)

    store = HookedPort(chat.store, states=count)
    texts = [m["text"] for m in (await chat.hydrate(store=store)).messages]
    assert texts == ["hi", "xyz", "abb", "a", "a", "of the third anonymous answer"]
    assert len(asked) == 1  # is the id of the third one taken?
    await chat.catch_up()
    await chat.publish_message("token", ", which goes on")
    assert len((await chat.hydrate(store=store)).messages) == len(texts)
    assert len(asked) == 1

"""S16 to S21 of docs/exactness.md: "not loaded" is not "does not exist"."""

from __future__ import annotations

import asyncio

import pytest

from exactness.scripted import Scripted, texts
from laws.identities import shown
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

    async def test_it_is_looked_up_though_its_event_would_have_continued_a_message(self, said):
        said.say(0, "user-input", {"promptId": "p", "text": "?"})
        said.say(15, "user-input", {"promptId": "q", "text": "?"})
        said.say(20, "start", id_="a")
        await said.record(21)
        said.say(30, "token", "not numbered", id_="b")
        said.say(30.1, "token", "numbered", id_="p", seq=1)  # so it begins a message
        for messages in (
            await said.rest(31, limit=1),
            await said.follow(25, limit=1),
            await said.follow(31, limit=1, rewind_s=10),
        ):
            assert texts(messages).items() <= texts(said.fresh()).items()

    async def test_it_is_looked_up_though_the_newest_anonymous_message_is_not_loaded(self, said):
        said.say(0, "user-input", {"promptId": "p", "text": "?"})
        said.tell(1, "abandoned", id_="a", stop=False)
        said.tell(3, "ended", id_="b")
        said.say(10, "user-input", {"promptId": "q", "text": "?"})
        await said.record(11)
        said.say(30, "token", "begins a message", id_="p")
        expected = texts(said.fresh())
        for messages in (await said.rest(31, limit=1), await said.follow(31, 1, 10)):
            assert texts(messages).items() <= expected.items()

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

    async def test_one_id_on_two_seqs_is_two_events_whenever_they_are_read(self, said):
        said.say(0, "start", id_="x", seq=0)
        said.say(0.1, "token", "lost", id_="x", seq=1)
        await said.record(1)
        await said.rest(1)  # the next answer's history is read from here
        said.say(8, "token", "kept", seq=2)
        await said.record(9)
        assert texts(said.fresh()) == {"x": ("lostkept", "in_progress")}
        assert texts(await said.rest(10)) == texts(said.fresh())

    async def test_a_start_with_the_id_of_an_event_that_is_forgotten_since_is_none_when_read_again(
        self, said
    ):
        said.say(0, "start", id_="a")
        said.say(6.5, "token", "one ", id_="x")
        said.say(10.4, "start", id_="x")  # so it is the token, published again
        said.say(12, "token", "two")
        await said.record(13)
        assert shown(said.fresh())["a"]["exact"]
        assert shown(await said.rest(14)) == shown(said.fresh())

    @pytest.mark.parametrize("with_serials", [True, False])
    async def test_a_start_after_the_end_changes_nothing_wherever_a_read_began(
        self, said, unordered, with_serials
    ):
        log = said if with_serials else unordered
        log.say(0, "stop", id_="x", seq=1)  # begins and ends a message
        await log.record(1)
        log.say(7, "start", id_="s", responseId="x")
        assert shown(log.fresh())["x"]["exact"]
        assert shown(await log.rest(8)) == shown(log.fresh())
        await log.record(9)
        log.say(9.5, "token", "of another message", id_="s")
        assert shown(await log.rest(10)) == shown(log.fresh())

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

    async def test_without_serials_a_start_that_is_read_again_is_no_empty_open_message(
        self, unordered
    ):
        unordered.tell(0, "One.")
        expected = {"m0": ("One.", "completed")}
        for at_s in (1, 4, 6, 9):
            assert texts(await unordered.rest(at_s)) == expected
            assert texts(await unordered.follow(at_s, rewind_s=10)) == expected
            assert texts(await unordered.view(at_s)) == expected
            await unordered.record(at_s)
            assert texts(await unordered.stored()) == expected

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


class TestS21NumberedAndUnnumbered:
    """The content of one message, some of it with seqs and some without."""

    @pytest.mark.parametrize("seqs", [(None, 1, 2), (1, None, 2), (1, 2, None)])
    async def test_the_text_is_not_exact_for_any_reader(self, said, seqs):
        said.say(0, "start", responseId="r")
        for at_s, (text, seq) in enumerate(zip("abc", seqs, strict=True), 1):
            numbered = {} if seq is None else {"seq": seq}
            said.say(at_s, "token", text, responseId="r", **numbered)
        await said.record(1.5)
        for at_s in (0.5, 1.5, 2.5, 3.5):
            for messages in (await said.rest(4), await said.follow(at_s), await said.view(at_s)):
                (message,) = messages
                assert not message["exact"]
                assert sorted(message["text"]) == ["a", "b", "c"]

    async def test_a_repair_makes_it_exact(self, said):
        said.say(0, "start", responseId="r", seq=0)
        said.say(1, "token", "b", responseId="r")
        said.say(2, "token", "a", responseId="r", seq=1)
        said.say(3, "response-complete", "ab", responseId="r", seq=1)
        for messages in (await said.rest(4), await said.follow(2.5), await said.view(2.5)):
            assert [(m["text"], m["exact"]) for m in messages] == [("ab", True)]

    async def test_numbers_alone_are_exact_wherever_they_begin(self, said):
        said.say(0, "token", "a", responseId="r", seq=0)
        said.say(1, "token", "b", responseId="r", seq=1)
        for messages in (await said.rest(2), await said.follow(0.5), await said.view(0.5)):
            assert [(m["text"], m["exact"]) for m in messages] == [("ab", True)]


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

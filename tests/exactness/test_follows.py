"""11, S9, S10, S11 and the minor races of docs/exactness.md: followers, their answers, their cost.

number  what breaks under a weaker rule                     where it is tested
M1      one refused token makes every reader read again     here
M2      positions in the order of insertion                 here
M3      prompts have no seq: only the overlap protects them test_readers, 1 and 3
M4      tokens numbered from 1, without a start             here
M5      an ETag that outlives a gap, or a repair            here
M6      two restarted agents answer one prompt              tests/publish/test_unanswered
M7      late text without seq after the stop is dropped     here; the README documents it
M8      what the laws assume                                tests/laws: overlaps, a publisher's order
M9      a repair without seq costs every reader a read      here
M10     history out of order, without seq                   test_readers
M11     a tool result from the user's client                tests/core/test_ai_transport
"""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from ably import AblyRest
from ably.types.message import Message

from api.minting import bearer
from exactness.viewing import viewing
from participants import history_over, reading
from rehydrate.core.client_view import View
from rehydrate.core.text.assembly import spoken_text
from rehydrate.record.import_messages import NewMessage

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
SERVICE_KEY = "service-key-of-exactness"


@pytest.fixture
async def history(module_database, server):
    async with history_over(module_database, server, service_keys=SERVICE_KEY) as made:
        yield made


class Test11ALiveFoldIsNotSaved:
    async def test_a_token_without_seq_that_a_follower_lost_is_still_stored_and_shown(
        self, history, server, conversation, publisher
    ):
        async with reading(history, conversation) as follower:
            await publisher.publish_message("token", "a", rid="r")
            await follower.until(lambda r: r.texts.get("r") == "a")
            with server.faults.on("drop_deliveries", count=1):
                await publisher.publish_message("token", "b", rid="r")
            await publisher.publish_message("token", "c", rid="r")
            await follower.until(lambda r: r.texts.get("r") == "abc")
            while not (await history.catch_up(conversation)).moved:
                pass  # the background recorder has locked the conversation, and may have read earlier
        states = await history._store.states(conversation, {"r"})
        assert [spoken_text(state.parts()) for state in states] == ["abc"]


class TestS9AnswersFromAFollower:
    async def test_a_follower_whose_connection_is_dead_does_not_make_answers_stale(
        self, history, server, conversation, publisher
    ):
        rest = AblyRest(
            key=server.key, use_token_auth=True, endpoint="127.0.0.1", port=server.port, tls=False
        )
        async with reading(history, conversation) as follower:
            await publisher.stream("r", "ab", stop=False)
            await follower.until(lambda r: r.texts.get("r") == "ab")
            connection = history._channel._pool._pooled[0].connection
            with server.faults.on("freeze"):  # its connection seems alive, but is not
                connection._echoed_s -= 100
                extras = {"headers": {"responseId": "r", "seq": 3}}
                said = Message(name="token", data="c", extras=extras)
                (serial,) = (await rest.channels.get(f"ai:{conversation}").publish(said)).serials
                now = await history.hydrate(conversation)
                there = await history.hydrate(conversation, until=serial.rpartition(":")[0])
        await rest.close()
        for answer in (now, there):
            assert ([m["text"] for m in answer.messages], answer.complete) == (["abc"], True)


class TestS10Pointers:
    async def test_a_reader_that_joined_before_a_repair_that_does_not_fit_gets_the_whole_text(
        self, chat
    ):
        whole = "語" * 30_000
        async with viewing(chat) as view:
            async with chat.respond("r") as response:
                response.write("draft")
                response.finish(parts=[{"type": "text", "text": whole}])
            await view.wait_for("stop", 1)
            assert view.texts == {"r": (whole, "completed")}
        assert view.agains == 1


class TestS11AnswersThatARetryImproves:
    async def test_live_text_is_not_joined_to_the_stored_part_while_history_is_unavailable(
        self, chat
    ):
        await chat.publish_message("start", responseId="r")
        await chat.publish_message("token", "a", responseId="r")
        await chat.catch_up()
        await chat.publish_message("token", "b", responseId="r")
        with chat.faults.on("fail_history", status=503):
            answer = await chat.hydrate()
        assert [(r.code, r.retry) for r in answer.reasons] == [("history_unavailable", True)]
        assert View(json.loads(answer.body)).stale
        async with viewing(chat) as view:
            await chat.publish_message("token", "c", responseId="r")
            await view.shows(r=("abc", "in_progress"))


class TestM1ManyRefusedTokens:
    async def test_followers_resync_together_and_not_once_per_refused_token(
        self, history, server, conversation, publisher, monkeypatch
    ):
        reads, load = [], history._store.load

        async def loaded(*asked, limit, **more):
            if limit > 1:
                reads.append(asked)
            return await load(*asked, limit=limit, **more)

        monkeypatch.setattr(history._store, "load", loaded)
        async with reading(history, conversation) as one, reading(history, conversation) as two:
            await publisher.publish_message("start", rid="r", seq=0)
            await one.until(lambda r: "r" in r.messages or r.snapshots)
            reads.clear()
            for seq in range(1, 41):
                if seq % 2:  # every other one was refused
                    await publisher.publish_message("token", str(seq % 10), rid="r", seq=seq)
            whole = "".join(str(seq % 10) for seq in range(1, 41))
            await publisher.publish_message("response-complete", {"text": whole}, rid="r", seq=40)
            await publisher.publish_message("stop", rid="r", seq=41)
            for follower in (one, two):
                await follower.until(lambda r: r.statuses.get("r") == "completed")
                assert follower.reader.texts == {"r": whole}
        assert len(reads) < 10


class TestM2Positions:
    async def test_responses_are_in_the_order_of_their_starts_in_whatever_order_they_were_stored(
        self, chat
    ):
        await chat.publish_message("start", responseId="first", seq=0)
        await chat.publish_response("second", "b")
        await chat.publish_response("first", "a", start=False)
        await chat.catch_up()
        assert list(await chat.shown()) == ["first", "second"]
        async with chat.store.locked(chat.id, chat.name) as held:
            states = await held.messages(["first", "second"])
        assert states["first"].position < states["second"].position

    async def test_a_row_that_was_inserted_first_has_the_position_of_its_start(self, chat):
        first = await chat.publish_message("start", responseId="first", seq=0)
        await asyncio.sleep(0.02)  # positions know milliseconds
        await chat.store_messages(NewMessage("later", "assistant", text="x"))
        await chat.publish_response("first", "a", start=False)
        await chat.catch_up()
        assert list(await chat.shown()) == ["first", "later"]
        (state,) = await chat.store.states(chat.id, {"first"})
        assert state.position == first


class TestM4TokensFromOne:
    async def test_without_a_start_there_is_no_gap(self, chat):
        await chat.publish_response("r", "abc", start=False)
        assert (await chat.message())["gaps"] == []
        assert (await chat.hydrate()).complete
        await chat.catch_up()
        message = await chat.message()
        assert (message["text"], message["gaps"], message["status"]) == ("abc", [], "completed")


class TestM5ETags:
    async def test_the_etag_changes_when_a_gap_is_filled_and_when_text_is_repaired(
        self, history, conversation, publisher
    ):
        await publisher.publish_message("start", rid="r", seq=0)
        await publisher.publish_message("token", "b", rid="r", seq=2)
        await publisher.publish_message("stop", rid="r", seq=3)
        await history.store_messages(conversation, [NewMessage("m", "user", text="later")])
        await history.catch_up(conversation)
        path = f"/v1/conversations/{conversation}/messages/r"
        app = history.app()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://t", headers=bearer(SERVICE_KEY)
        ) as client:
            tags = [await self.tag(client, path)]
            await publisher.publish_message("token", "a", rid="r", seq=1)
            await history.catch_up(conversation)
            tags.append(await self.tag(client, path))
            await publisher.publish_message("response-complete", {"text": "AB"}, rid="r", seq=2)
            await history.catch_up(conversation)
            tags.append(await self.tag(client, path))
            unchanged = await client.get(path, headers={"If-None-Match": tags[-1]})
        assert len(set(tags)) == 3
        assert unchanged.status_code == 304

    async def tag(self, client, path):
        answer = await client.get(path)
        assert answer.status_code == 200
        return answer.headers["etag"]


class TestM7TextAfterTheStop:
    async def test_without_seq_it_is_dropped_by_readers_and_by_the_recorder(self, chat):
        async with viewing(chat) as view:
            await chat.publish_message("token", "a", responseId="r")
            await chat.publish_message("stop", responseId="r")
            await chat.publish_message("token", "late", responseId="r")
            await view.wait_for("token", 2)
            assert view.texts == {"r": ("a", "completed")}
        assert await chat.shown() == {"r": ("a", "completed")}
        await chat.catch_up()
        assert await chat.stored() == {"r": ("a", "completed")}


class TestM9RepairsWithASeq:
    async def test_readers_apply_the_repair_without_hydrating_again(self, chat):
        async with viewing(chat) as view:
            await chat.publish_message("start", responseId="r", seq=0)
            await chat.publish_message("token", "a", responseId="r", seq=1)
            await view.shows(r=("a", "in_progress"))
            await chat.publish_message("response-complete", {"text": "abc"}, responseId="r", seq=3)
            await chat.publish_message(
                "token", "c", responseId="r", seq=3
            )  # held back, and in the repair
            await chat.publish_message("token", "d", responseId="r", seq=4)
            await chat.publish_message("stop", responseId="r", seq=5)
            await view.shows(r=("abcd", "completed"))
        assert view.agains == 0

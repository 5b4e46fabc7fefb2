"""`History.follow`: what it yields, what it refuses, and when it ends."""

from __future__ import annotations

import secrets
from contextlib import aclosing

import pytest

from participants import history_over, publisher_to, reading
from rehydrate.errors import BadParameter, StoreUnavailable
from rehydrate.ports import Outgoing

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


async def test_a_snapshot_has_the_requested_number_of_finished_messages_and_all_open_ones(
    module_database, server
):
    conversation = f"j-{secrets.token_hex(4)}"
    async with (
        publisher_to(server, f"ai:{conversation}") as publisher,
        history_over(module_database, server) as history,
    ):
        for n in range(4):
            await publisher.stream(f"r{n}", "x", stop=n != 1)
        for limit, wanted in ((1, ["r1", "r3"]), (2, ["r1", "r2", "r3"])):
            async with aclosing(history.follow(conversation, limit=limit)) as events:
                snapshot = await anext(events)
            hydrated = await history.hydrate(conversation, limit=limit)
            assert [m["id"] for m in snapshot.data["messages"]] == wanted
            assert snapshot.data["messages"] == hydrated.messages
            assert snapshot.data["older"] == hydrated.older is not None


@pytest.mark.parametrize(("conversation", "limit"), [("[x", 50), ("c", 0), ("c", 201)])
async def test_arguments_out_of_range_are_refused(module_database, server, conversation, limit):
    async with history_over(module_database, server) as history:
        with pytest.raises(BadParameter):
            await anext(history.follow(conversation, limit=limit))


async def test_following_without_a_database_fails_and_may_be_tried_again(server):
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    async with history_over(nowhere, server) as history:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await anext(history.follow("c"))


async def test_followers_end_when_the_history_is_closed(module_database, server):
    async with history_over(module_database, server) as history:
        events = history.follow("c")
        await anext(events)
    assert [each async for each in events] == []


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_claim_that_changes_the_owner_of_an_early_token_is_followed(
    module_database, server, recorded
):
    conversation = f"j-{secrets.token_hex(4)}"
    headers = {"headers": {"responseId": "r", "seq": 1}}
    early = Outgoing("token", "of a stranger", "early", headers, "mallory")
    async with history_over(module_database, server) as history:
        async with reading(history, conversation) as follower:
            await follower.until(lambda r: r.snapshots)
            await history._channel.publish(f"ai:{conversation}", [early])
            await follower.until(lambda r: r.texts.get("r") == "of a stranger")
            if recorded:
                await history.catch_up(conversation)
            async with history.respond(conversation, "r") as response:
                response.write("of the agent")
                await follower.until(lambda r: r.texts.get("r") == "of the agent")
                snapshots = len(follower.reader.snapshots)
                again = Outgoing("start", None, "late", {"headers": {"responseId": "r"}}, "mallory")
                await history._channel.publish(f"ai:{conversation}", [again])
                await follower.until(lambda r: len(r.snapshots) > snapshots)
                response.write(", whole")
            shown = await follower.until(lambda r: r.statuses["r"] == "completed")
        assert shown.texts == {"r": "of the agent, whole"}
        (message,) = (await history.hydrate(conversation)).messages
        assert message["text"] == shown.texts["r"]

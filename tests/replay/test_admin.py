"""Requested replays: what is published, what followers see, and what admins read."""

from __future__ import annotations

import pytest

from localably import LocalAbly
from participants import reading
from rehydrate.core.replay.schedule import Requester
from replay.replay_conversation import TOKENS, folded, replay_conversation


@pytest.fixture(scope="module")
async def ably():
    async with LocalAbly() as server:
        yield server


@pytest.fixture
async def chat(database, ably):
    async with replay_conversation(database, ably) as made:
        yield made


async def test_a_replay_publishes_the_response_again_under_an_id_of_its_own(chat):
    await chat.respond("r")
    replay = await chat.history.replay(chat.id, "r", speed=0)
    assert (replay.state, replay.chunks, replay.done) == ("queued", len(TOKENS), 0)
    ended = await chat.ended(replay)
    assert (ended.state, ended.done, ended.error) == ("done", len(TOKENS), None)
    events = await chat.events(replay)
    assert [e.kind for e in events] == ["start", *["token"] * len(TOKENS), "stop"]
    assert [e.seq for e in events] == list(range(len(TOKENS) + 2))
    assert [e.text for e in events[1:-1]] == TOKENS
    assert {e.replay_of for e in events} == {"r"}
    assert folded(events, replay.id).status == "completed"


async def test_followers_see_a_replay_live_and_no_answer_has_it(chat):
    await chat.respond("r")
    async with reading(chat.history, chat.id) as reader:
        await reader.until(lambda r: r.snapshots)
        replay = await chat.history.replay(chat.id, "r", speed=0)
        seen = await reader.until(lambda r: r.statuses.get(replay.id) == "completed")
        assert seen.texts[replay.id] == "".join(TOKENS)
        assert not seen.wrong
    await chat.ended(replay)
    await chat.history.catch_up(chat.id)
    answer = await chat.history.hydrate(chat.id)
    assert [m["id"] for m in answer.messages] == ["r"]


async def test_the_newest_replays_and_audit_entries_come_first_and_in_pages(chat):
    await chat.respond("r")
    asked = [await chat.history.replay(chat.id, "r", speed=0) for _ in range(3)]
    newest, older = await chat.history.admin.replays(limit=2)
    oldest, end = await chat.history.admin.replays(limit=2, before=older)
    assert [replay.id for replay in [*newest, *oldest]] == [replay.id for replay in asked[::-1]]
    assert end is None
    (entry,), _ = await chat.history.admin.audit(limit=1)
    assert (entry.action, entry.actor) == ("replay", "python")


async def test_a_cancelled_replay_has_ended_when_the_call_returns(chat):
    await chat.respond("r", pause_s=0.05)
    replay = await chat.history.replay(chat.id, "r", speed=0.01)
    cancelled = await chat.history.admin.cancel_replay(replay.id, asker=Requester("me"))
    assert (cancelled.id, cancelled.state) == (replay.id, "cancelled")


async def test_a_stream_is_stopped_without_the_store_and_ends_as_cancelled(chat, database, ably):
    await chat.respond("r", [f"{n} " for n in range(40)])
    replay = await chat.history.replay(chat.id, "r", speed=0, max_rate=10)
    await chat.reached(replay, 3)
    seen = await chat.history.admin.find_replay(replay.id)
    worker = chat.history._replay_worker
    for run in worker._runs.values():
        run._replays = None  # its process has no store
    await worker.close()
    await chat.history.admin.stop_stream(seen)
    async with replay_conversation(database, ably) as other:
        ended = await other.ended(replay)
    assert (ended.state, ended.error) == ("cancelled", None)
    events = await chat.events(replay)
    assert [e.kind for e in events].count("stop") == 1
    assert folded(events, replay.id).status == "cancelled"
    await chat.history.admin.stop_stream(seen)
    await chat.history.admin.stop_stream(seen._replace(terms=seen.terms._replace(mode="repair")))
    assert [e.kind for e in await chat.events(replay)].count("stop") == 1


async def test_parts_are_replayed_unchanged(chat):
    async with chat.history.respond(chat.id, "r") as response:
        response.reason("hm", part="thoughts")
        response.write("a", part="x")
        response.tool_call("t", "find")
        response.tool_args("t", '{"q":1}')
        response.tool_result("t", [1, {"é": None}], name="find")
        response.refuse("no")
        response.finish("incomplete", usage={"n": 3}, error={"code": "length"})
    replay = await chat.history.replay(chat.id, "r", speed=0)
    assert (await chat.ended(replay)).state == "done"
    replayed = folded(await chat.events(replay), replay.id)
    (shown,) = (await chat.history.hydrate(chat.id)).messages
    assert replayed.parts() == shown["parts"]
    assert (replayed.status, replayed.usage, replayed.error) == (
        "incomplete",
        {"n": 3},
        {"code": "length"},
    )

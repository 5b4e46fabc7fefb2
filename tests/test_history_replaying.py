"""`History.replay` over real rooms, and what followers see of it."""

from __future__ import annotations

import pytest

from localably import LocalAbly
from replay.rooms import TOKENS, folded, room_over
from telling import reading


@pytest.fixture(scope="module")
async def ably():
    async with LocalAbly() as server:
        yield server


@pytest.fixture
async def room(database, ably):
    async with room_over(database, ably) as made:
        yield made


async def test_a_replay_says_the_response_again_under_a_name_of_its_own(room):
    await room.respond("r")
    replay = await room.history.replay(room.id, "r", speed=0)
    assert (replay.state, replay.chunks, replay.done) == ("queued", len(TOKENS), 0)
    ended = await room.ended(replay)
    assert (ended.state, ended.done, ended.error) == ("done", len(TOKENS), None)
    events = await room.events(replay)
    assert [e.kind for e in events] == ["start", *["token"] * len(TOKENS), "stop"]
    assert [e.seq for e in events] == list(range(len(TOKENS) + 2))
    assert [e.text for e in events[1:-1]] == TOKENS
    assert {e.replay_of for e in events} == {"r"}
    assert folded(events, replay.id).status == "completed"


async def test_followers_see_it_live_and_no_answer_has_it(room):
    await room.respond("r")
    async with reading(room.history, room.id) as reader:
        await reader.until(lambda r: r.snapshots)
        replay = await room.history.replay(room.id, "r", speed=0)
        seen = await reader.until(lambda r: r.statuses.get(replay.id) == "completed")
        assert seen.texts[replay.id] == "".join(TOKENS)
        assert not seen.wrong
    await room.ended(replay)
    await room.history.catch_up(room.id)
    answer = await room.history.hydrate(room.id)
    assert [m["id"] for m in answer.messages] == ["r"]

"""Requests for replays: checked, queued, and audited whether accepted or refused."""

from __future__ import annotations

import pytest

from rehydrate import NewMessage
from rehydrate.core.replay.schedule import ReplayTerms, Requester
from rehydrate.errors import BadParameter, Conflict, Forbidden, NotFound
from replay.rooms import TOKENS
from telling import publisher_to

ME = Requester("admin:me", "10.0.0.1")


async def audited(room):
    entries, _ = await room.history.admin.audit(limit=20)
    return [e for e in entries if e.conversation_id == room.id]


async def test_a_queued_replay_has_all_terms_and_an_audit_entry(room):
    await room.respond("r")
    replay = await room.history.replay(room.id, "r", speed=0, asker=ME)
    assert replay.terms == ReplayTerms("stream", 0, f"ai:{room.id}", 0, 25.0)
    assert (replay.asked_by, replay.plan["joined"], replay.plan["gaps"]) == ("admin:me", 0, [])
    await room.ended(replay)
    ended, accepted = await audited(room)
    assert (accepted.actor, accepted.action, accepted.outcome) == ("admin:me", "replay", "accepted")
    assert (accepted.target, accepted.address) == (f"ai:{room.id}", "10.0.0.1")
    assert accepted.detail["replay_id"] == replay.id
    assert (ended.outcome, ended.detail["done"]) == ("done", len(TOKENS))


async def test_a_response_that_only_the_channel_has_is_recorded_first(room):
    await room.history.store_messages(room.id, [NewMessage("p", "user", text="?")])
    async with publisher_to(room.server, f"ai:{room.id}") as foreign:
        await foreign.stream("f", "abc")
        replay = await room.history.replay(room.id, "f", speed=0)
    assert replay.chunks == 3
    await room.ended(replay)


async def test_an_unknown_response_or_a_prompt_is_not_found(room):
    for _ in range(2):
        with pytest.raises(NotFound):
            await room.history.replay(room.id, "r")
        await room.history.store_messages(room.id, [NewMessage("r2", "user", text="?")])
    with pytest.raises(NotFound):
        await room.history.replay(room.id, "r2")
    assert {e.outcome for e in await audited(room)} == {"refused: not_found"}


async def test_an_open_response_is_a_conflict(room):
    async with room.history.respond(room.id, "r") as response:
        response.write("a")
        with pytest.raises(Conflict, match="not ended"):
            await room.history.replay(room.id, "r")


async def test_invalid_names_are_refused_and_audited_shortened(room):
    for conversation_id, response_id in (("a*", "r"), (room.id, "\0"), (room.id, "x" * 300)):
        with pytest.raises(BadParameter):
            await room.history.replay(conversation_id, response_id)
    (newest, *_), _ = await room.history.admin.audit(limit=1)
    assert len(newest.detail["response_id"]) == 256


async def test_replays_to_other_channels_need_permission(room):
    await room.respond("r")
    with pytest.raises(Forbidden):
        await room.history.replay(room.id, "r", channel="elsewhere")
    with pytest.raises(BadParameter):
        await room.history.replay(room.id, "r", channel="[x]y")
    own = await room.history.replay(room.id, "r", channel=f"ai:{room.id}", speed=0)
    await room.ended(own)


async def test_a_dry_run_is_audited_and_publishes_nothing(room):
    await room.respond("r")
    checked = await room.history.admin.replay_dry_run(room.id, "r", ReplayTerms(speed=0), asker=ME)
    assert checked.schedule.chunks == len(TOKENS)
    assert checked.channel == f"ai:{room.id}"
    (entry,) = await audited(room)
    assert (entry.action, entry.outcome) == ("replay_dry_run", "accepted")
    with pytest.raises(NotFound):
        await room.history.admin.replay_dry_run(room.id, "x", ReplayTerms(), asker=ME)


async def test_the_same_key_returns_the_same_replay(room):
    await room.respond("r")
    first = await room.history.replay(room.id, "r", speed=0, idempotency_key="k")
    again = await room.history.replay(room.id, "r", speed=0, idempotency_key="k")
    assert first.id == again.id
    with pytest.raises(Conflict):
        await room.history.replay(room.id, "r", speed=2, idempotency_key="k")
    await room.ended(first)


async def test_the_same_key_with_the_same_terms_in_other_types_is_the_same_request(room):
    await room.respond("r")
    terms = (
        {"speed": 1, "max_rate": 20},
        {"speed": 1.0, "max_rate": 20.0},
        {"speed": True, "max_rate": 20},
    )
    replays = [
        await room.history.replay(room.id, "r", **each, idempotency_key="k") for each in terms
    ]
    assert len({replay.id for replay in replays}) == 1
    await room.ended(replays[0])


async def test_an_unknown_replay_cannot_be_cancelled(room):
    with pytest.raises(NotFound):
        await room.history.admin.cancel_replay("replay-none")

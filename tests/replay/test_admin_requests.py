"""Requests for replays: checked, queued, and audited whether accepted or refused."""

from __future__ import annotations

import pytest

from participants import publisher_to
from rehydrate import NewMessage
from rehydrate.core.replay.schedule import ReplayTerms, Requester
from rehydrate.errors import BadParameter, Conflict, Forbidden, NotFound
from replay.replay_conversation import TOKENS

ME = Requester("admin:me", "10.0.0.1")


async def audited(chat):
    entries, _ = await chat.history.admin.audit(limit=20)
    return [e for e in entries if e.conversation_id == chat.id]


async def test_a_queued_replay_has_all_terms_and_an_audit_entry(chat):
    await chat.respond("r")
    replay = await chat.history.replay(chat.id, "r", speed=0, asker=ME)
    assert replay.terms == ReplayTerms("stream", 0, f"ai:{chat.id}", 0, 25.0)
    assert (replay.asked_by, replay.plan["joined"], replay.plan["gaps"]) == ("admin:me", 0, [])
    await chat.ended(replay)
    ended, accepted = await audited(chat)
    assert (accepted.actor, accepted.action, accepted.outcome) == ("admin:me", "replay", "accepted")
    assert (accepted.target, accepted.address) == (f"ai:{chat.id}", "10.0.0.1")
    assert accepted.detail["replay_id"] == replay.id
    assert (ended.outcome, ended.detail["done"]) == ("done", len(TOKENS))


async def test_a_response_that_only_the_channel_has_is_recorded_first(chat):
    await chat.history.store_messages(chat.id, [NewMessage("p", "user", text="?")])
    async with publisher_to(chat.server, f"ai:{chat.id}") as foreign:
        await foreign.stream("f", "abc")
        replay = await chat.history.replay(chat.id, "f", speed=0)
    assert replay.chunks == 3
    await chat.ended(replay)


async def test_an_unknown_response_or_a_prompt_is_not_found(chat):
    for _ in range(2):
        with pytest.raises(NotFound):
            await chat.history.replay(chat.id, "r")
        await chat.history.store_messages(chat.id, [NewMessage("r2", "user", text="?")])
    with pytest.raises(NotFound):
        await chat.history.replay(chat.id, "r2")
    assert {e.outcome for e in await audited(chat)} == {"refused: not_found"}


async def test_an_open_response_is_a_conflict(chat):
    async with chat.history.respond(chat.id, "r") as response:
        response.write("a")
        with pytest.raises(Conflict, match="not ended"):
            await chat.history.replay(chat.id, "r")


async def test_invalid_names_are_refused_and_audited_shortened(chat):
    for conversation_id, response_id in (("a*", "r"), (chat.id, "\0"), (chat.id, "x" * 300)):
        with pytest.raises(BadParameter):
            await chat.history.replay(conversation_id, response_id)
    (newest, *_), _ = await chat.history.admin.audit(limit=1)
    assert len(newest.detail["response_id"]) == 256


async def test_replays_to_other_channels_need_permission(chat):
    await chat.respond("r")
    with pytest.raises(Forbidden):
        await chat.history.replay(chat.id, "r", channel="elsewhere")
    with pytest.raises(BadParameter):
        await chat.history.replay(chat.id, "r", channel="[x]y")
    own = await chat.history.replay(chat.id, "r", channel=f"ai:{chat.id}", speed=0)
    await chat.ended(own)


async def test_a_dry_run_is_audited_and_publishes_nothing(chat):
    await chat.respond("r")
    checked = await chat.history.admin.replay_dry_run(chat.id, "r", ReplayTerms(speed=0), asker=ME)
    assert checked.schedule.chunks == len(TOKENS)
    assert checked.channel == f"ai:{chat.id}"
    (entry,) = await audited(chat)
    assert (entry.action, entry.outcome) == ("replay_dry_run", "accepted")
    with pytest.raises(NotFound):
        await chat.history.admin.replay_dry_run(chat.id, "x", ReplayTerms(), asker=ME)


async def test_the_same_key_returns_the_same_replay(chat):
    await chat.respond("r")
    first = await chat.history.replay(chat.id, "r", speed=0, idempotency_key="k")
    again = await chat.history.replay(chat.id, "r", speed=0, idempotency_key="k")
    assert first.id == again.id
    with pytest.raises(Conflict):
        await chat.history.replay(chat.id, "r", speed=2, idempotency_key="k")
    await chat.ended(first)


async def test_the_same_key_with_the_same_terms_in_other_types_is_the_same_request(chat):
    await chat.respond("r")
    terms = (
        {"speed": 1, "max_rate": 20},
        {"speed": 1.0, "max_rate": 20.0},
        {"speed": True, "max_rate": 20},
    )
    replays = [
        await chat.history.replay(chat.id, "r", **each, idempotency_key="k") for each in terms
    ]
    assert len({replay.id for replay in replays}) == 1
    await chat.ended(replays[0])


async def test_an_unknown_replay_cannot_be_cancelled(chat):
    with pytest.raises(NotFound):
        await chat.history.admin.cancel_replay("replay-none")

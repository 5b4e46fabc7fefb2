"""Writes of a publisher into a real store, for as long as it holds the lease."""

from __future__ import annotations

import pytest

from rehydrate.errors import Conflict, Fenced, StoreUnavailable
from rehydrate.postgres.locked_conversation import PostgresLockedConversation
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish import checkpoints as module
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.publish.prompts import prompt
from shared_adapters import HookedPort, Latch, event_of, within
from tcp_proxy import TcpProxy


class Written:
    """The part of a `ResponseWriter` that `Checkpoints` uses."""

    def __init__(self, *letters):
        self.id = "r"
        self.unstored = [event_of("token", "r", seq, text) for seq, text in enumerate(letters, 1)]
        self.position = self.metadata = self.closed = None

    def stored(self, count):
        del self.unstored[:count]


def checkpoints_of(chat, store=None):
    return Checkpoints(chat.context(store=store), chat.id)


async def kept(chat):
    (state,) = await chat.store.states(chat.id, ["r"])
    return state.gen, "".join(part["text"] for part in state.parts()), state.status


async def test_a_claim_holds_until_the_lease_expires(chat):
    first, second = checkpoints_of(chat), checkpoints_of(chat)
    assert await first.claim("r", "p", None) == (1, chat.name)
    with pytest.raises(Conflict, match="is being published"):
        await second.claim("r", None, None)
    await chat.take_over("r")
    assert await second.claim("r", None, None) == (2, chat.name)
    with pytest.raises(Fenced):
        await first.checkpoint(Written("a"))


async def test_a_claim_whose_answer_is_lost_is_found_again(chat):
    async with TcpProxy(chat.adapters.database) as proxy:
        store = PostgresStore(proxy.url)
        await store.open()
        try:
            checkpoints = checkpoints_of(chat, store)
            async with store.locked(f"{chat.id}-other", f"{chat.name}-other"):
                pass  # the connection is open
            proxy.lose_answer_to(b"COMMIT")
            assert await checkpoints.claim("r", "p", None) == (1, chat.name)
            assert proxy.answers_lost == 1
            await checkpoints.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
        finally:
            await store.close()
    assert await kept(chat) == (1, "a", "completed")


async def test_an_end_whose_answer_is_lost_is_committed_once(chat):
    async with TcpProxy(chat.adapters.database) as proxy:
        store = PostgresStore(proxy.url)
        await store.open()
        try:
            checkpoints = checkpoints_of(chat, store)
            await checkpoints.claim("r", "p", None)
            proxy.lose_answer_to(b"COMMIT")
            await checkpoints.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
            assert proxy.answers_lost == 1
        finally:
            await store.close()
    assert await kept(chat) == (1, "a", "completed")


async def test_the_id_of_a_prompt_is_refused_with_the_remedy(chat):
    await prompt(chat.ctx, chat.id, "hostile", prompt_id="r")
    with pytest.raises(Conflict, match="id of a prompt: use a new id"):
        await checkpoints_of(chat).claim("r", None, None)


async def test_a_checkpoint_appends_the_events_since_the_last(chat):
    checkpoints, out = checkpoints_of(chat), Written("a", "b")
    await checkpoints.claim("r", None, None)
    await checkpoints.checkpoint(out)
    assert not out.unstored
    out.unstored.append(event_of("token", "r", 3, "c"))
    await checkpoints.checkpoint(out)
    await checkpoints.checkpoint(out)
    assert await kept(chat) == (1, "abc", "in_progress")


async def test_a_checkpoint_renews_the_lease_only_shortly_before_that_is_due(chat, monkeypatch):
    """The lease of 15 s is renewed every 5 s, or by a checkpoint after 4 s."""
    now_s, granted_s = 100.0, []
    grant = PostgresLockedConversation.grant

    async def noted_grant(self, *how):
        granted_s.append(now_s)
        await grant(self, *how)

    monkeypatch.setattr(module, "_now_s", lambda: now_s)
    monkeypatch.setattr(PostgresLockedConversation, "grant", noted_grant)
    checkpoints = checkpoints_of(chat)
    assert (checkpoints.lease_s, checkpoints.renew_s) == (15.0, 5.0)
    await checkpoints.claim("r", None, None)
    for at_s in (103.9, 104.0, 107.9, 108.0):
        now_s = at_s
        await checkpoints.checkpoint(Written())
    assert granted_s == [100.0, 104.0, 108.0]


async def test_the_end_is_committed_with_unstored_events_and_then_marked_acknowledged(chat):
    checkpoints = checkpoints_of(chat)
    await checkpoints.claim("r", None, None)
    await checkpoints.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
    assert await kept(chat) == (1, "a", "completed")
    assert not (await chat.lease("r")).stop_acked
    await checkpoints.mark_stop_acked(Written())
    assert (await chat.lease("r")).stop_acked


async def test_a_commit_to_a_hanging_store_has_a_time_limit(chat, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_TIMEOUT_S", 0.2)
    latch = Latch()
    checkpoints = checkpoints_of(chat, HookedPort(chat.store))
    await checkpoints.claim("r", None, None)
    checkpoints = checkpoints_of(chat, HookedPort(chat.store, locked=latch))
    with pytest.raises(StoreUnavailable):
        await within(checkpoints.commit(Written("a"), []), 20)
    assert await kept(chat) == (1, "", "in_progress")


async def test_an_acknowledgement_that_cannot_be_recorded_is_logged(chat, caplog):
    class Away:
        def locked(self, *_):
            raise StoreUnavailable("away")

    await checkpoints_of(chat, Away()).mark_stop_acked(Written())
    assert "could not be recorded" in caplog.text

"""Writes of a publisher into a real store, for as long as it holds the lease."""

from __future__ import annotations

import pytest

from api.tcp_proxy import TcpProxy
from exactness.rooms import Gate, Paused, event_of, open_house, within
from rehydrate.errors import Conflict, Fenced, StoreUnavailable
from rehydrate.postgres.locked_conversation import PostgresLockedConversation
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish import checkpoints as module
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.publish.prompts import prompt


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


class Written:
    """The part of a `ResponseWriter` that `Checkpoints` uses."""

    def __init__(self, *letters):
        self.id = "r"
        self.unstored = [event_of("token", "r", seq, text) for seq, text in enumerate(letters, 1)]
        self.position = self.metadata = self.closed = None

    def stored(self, count):
        del self.unstored[:count]


def checkpoints_of(room, store=None):
    return Checkpoints(room.context(store=store), room.id)


async def kept(room):
    (state,) = await room.store.states(room.id, ["r"])
    return state.gen, "".join(part["text"] for part in state.parts()), state.status


async def test_a_claim_holds_until_the_lease_expires(room):
    first, second = checkpoints_of(room), checkpoints_of(room)
    assert await first.claim("r", "p", None) == (1, room.name)
    with pytest.raises(Conflict, match="is being published"):
        await second.claim("r", None, None)
    await room.take_over("r")
    assert await second.claim("r", None, None) == (2, room.name)
    with pytest.raises(Fenced):
        await first.checkpoint(Written("a"))


async def test_a_claim_whose_answer_is_lost_is_found_again(room):
    async with TcpProxy(room.house.database) as proxy:
        store = PostgresStore(proxy.url)
        await store.open()
        try:
            checkpoints = checkpoints_of(room, store)
            async with store.locked(f"{room.id}-other", f"{room.name}-other"):
                pass  # the connection is open
            proxy.lose_answer_to(b"COMMIT")
            assert await checkpoints.claim("r", "p", None) == (1, room.name)
            assert proxy.answers_lost == 1
            await checkpoints.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
        finally:
            await store.close()
    assert await kept(room) == (1, "a", "completed")


async def test_an_end_whose_answer_is_lost_is_committed_once(room):
    async with TcpProxy(room.house.database) as proxy:
        store = PostgresStore(proxy.url)
        await store.open()
        try:
            checkpoints = checkpoints_of(room, store)
            await checkpoints.claim("r", "p", None)
            proxy.lose_answer_to(b"COMMIT")
            await checkpoints.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
            assert proxy.answers_lost == 1
        finally:
            await store.close()
    assert await kept(room) == (1, "a", "completed")


async def test_the_id_of_a_prompt_is_refused_with_the_remedy(room):
    await prompt(room.ctx, room.id, "hostile", prompt_id="r")
    with pytest.raises(Conflict, match="id of a prompt: use a new id"):
        await checkpoints_of(room).claim("r", None, None)


async def test_a_checkpoint_appends_the_events_since_the_last(room):
    checkpoints, out = checkpoints_of(room), Written("a", "b")
    await checkpoints.claim("r", None, None)
    await checkpoints.checkpoint(out)
    assert not out.unstored
    out.unstored.append(event_of("token", "r", 3, "c"))
    await checkpoints.checkpoint(out)
    await checkpoints.checkpoint(out)
    assert await kept(room) == (1, "abc", "in_progress")


async def test_a_checkpoint_renews_the_lease_only_shortly_before_that_is_due(room, monkeypatch):
    """The lease of 15 s is renewed every 5 s, or by a checkpoint after 4 s."""
    now_s, granted_s = 100.0, []
    grant = PostgresLockedConversation.grant

    async def noted_grant(self, *how):
        granted_s.append(now_s)
        await grant(self, *how)

    monkeypatch.setattr(module, "_now_s", lambda: now_s)
    monkeypatch.setattr(PostgresLockedConversation, "grant", noted_grant)
    checkpoints = checkpoints_of(room)
    assert (checkpoints.lease_s, checkpoints.renew_s) == (15.0, 5.0)
    await checkpoints.claim("r", None, None)
    for at_s in (103.9, 104.0, 107.9, 108.0):
        now_s = at_s
        await checkpoints.checkpoint(Written())
    assert granted_s == [100.0, 104.0, 108.0]


async def test_the_end_is_committed_with_unstored_events_and_then_marked_acknowledged(room):
    checkpoints = checkpoints_of(room)
    await checkpoints.claim("r", None, None)
    await checkpoints.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
    assert await kept(room) == (1, "a", "completed")
    assert not (await room.lease("r")).stop_acked
    await checkpoints.mark_stop_acked(Written())
    assert (await room.lease("r")).stop_acked


async def test_a_commit_to_a_hanging_store_has_a_time_limit(room, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_TIMEOUT_S", 0.2)
    gate = Gate()
    checkpoints = checkpoints_of(room, Paused(room.store))
    await checkpoints.claim("r", None, None)
    checkpoints = checkpoints_of(room, Paused(room.store, locked=gate))
    with pytest.raises(StoreUnavailable):
        await within(checkpoints.commit(Written("a"), []), 20)
    assert await kept(room) == (1, "", "in_progress")


async def test_an_acknowledgement_that_cannot_be_recorded_is_logged(room, caplog):
    class Away:
        def locked(self, *_):
            raise StoreUnavailable("away")

    await checkpoints_of(room, Away()).mark_stop_acked(Written())
    assert "could not be recorded" in caplog.text

"""What a publisher writes into the store, over a real one: as long as the response is its own."""

from __future__ import annotations

import pytest

from exactness.rooms import Gate, Paused, event_of, open_house, within
from rehydrate.errors import Conflict, Fenced, StoreUnavailable
from rehydrate.publish import checkpoints as module
from rehydrate.publish.checkpoints import Checkpoints


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


class Written:
    """What of a publication its ledger looks at."""

    def __init__(self, *letters):
        self.id = "r"
        self.unstored = [event_of("token", "r", seq, text) for seq, text in enumerate(letters, 1)]
        self.position = self.metadata = self.closed = None

    def stored(self, count):
        del self.unstored[:count]


def ledger_of(room, store=None):
    return Checkpoints(room.context(store=store), room.id)


async def kept(room):
    (state,) = await room.store.states(room.id, ["r"])
    return state.gen, "".join(part["text"] for part in state.parts()), state.status


async def test_a_claim_makes_the_response_its_own_until_the_lease_runs_out(room):
    first, second = ledger_of(room), ledger_of(room)
    assert await first.claim("r", "p", None) == (1, room.name)
    with pytest.raises(Conflict, match="is being published"):
        await second.claim("r", None, None)
    await room.take_over("r")
    assert await second.claim("r", None, None) == (2, room.name)
    with pytest.raises(Fenced):
        await first.checkpoint(Written("a"))


async def test_a_checkpoint_appends_what_was_written_since_the_last(room):
    ledger, out = ledger_of(room), Written("a", "b")
    await ledger.claim("r", None, None)
    await ledger.checkpoint(out)
    assert not out.unstored
    out.unstored.append(event_of("token", "r", 3, "c"))
    await ledger.checkpoint(out)
    await ledger.checkpoint(out)
    assert await kept(room) == (1, "abc", "in_progress")


async def test_the_end_is_committed_with_what_was_not_stored_and_then_told(room):
    ledger = ledger_of(room)
    await ledger.claim("r", None, None)
    await ledger.commit(Written("a"), [event_of("stop", "r", 2, status="completed")])
    assert await kept(room) == (1, "a", "completed")
    assert not (await room.lease("r")).told
    await ledger.told(Written())
    assert (await room.lease("r")).told


async def test_a_store_that_hangs_is_waited_for_so_long_and_no_longer(room, monkeypatch):
    monkeypatch.setattr(module, "COMMIT_TIMEOUT_S", 0.2)
    gate = Gate()
    ledger = ledger_of(room, Paused(room.store))
    await ledger.claim("r", None, None)
    ledger = ledger_of(room, Paused(room.store, locked=gate))
    with pytest.raises(StoreUnavailable):
        await within(ledger.commit(Written("a"), []), 20)
    assert await kept(room) == (1, "", "in_progress")


async def test_what_was_not_marked_as_told_is_left_to_who_sweeps(room, caplog):
    class Away:
        def locked(self, *_):
            raise StoreUnavailable("away")

    await ledger_of(room, Away()).told(Written())
    assert "could not be marked" in caplog.text

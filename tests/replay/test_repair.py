"""A repair: every live reader's text becomes the stored text, and nothing stored changes."""

from __future__ import annotations

import json

import pytest

from core.saying import event, folded, start, stop, token
from rehydrate import NewMessage
from rehydrate.core.client_view import Verdict, View, verdict
from rehydrate.core.wire import message, state_of
from rehydrate.errors import Conflict
from rehydrate.replay.repair import told_of
from replay.rooms import TOKENS
from telling import publisher_to, reading

TEXT = "".join(TOKENS)


async def test_it_is_one_repair_with_the_id_of_the_response(room):
    await room.said("r")
    before = json.loads(await room.history.message(room.id, "r"))
    replay = await room.history.replay(room.id, "r", mode="repair")
    assert (await room.ended(replay)).state == "done"
    said = [e for e in await room.events() if e.kind == "repair"]
    assert [(e.message_id, e.gen, e.seq) for e in said] == [("r", 1, len(TOKENS))]
    assert said[0].value == before["parts"]
    await room.history.catch_up(room.id)
    after = json.loads(await room.history.message(room.id, "r"))
    through = {**before["through"], "id": said[0].id}
    assert after == {**before, "repaired": len(TOKENS), "through": through}


async def test_its_times_are_kept_so_that_it_can_be_replayed_again(room):
    await room.said("r", pause_s=0.02)
    await room.ended(await room.history.replay(room.id, "r", mode="repair"))
    await room.history.catch_up(room.id)
    replay = await room.history.replay(room.id, "r", speed=0)
    assert (replay.chunks, replay.plan["even"]) == (len(TOKENS), False)
    await room.ended(replay)


async def test_a_reader_of_another_text_has_the_stored_one_then(room):
    async with (
        publisher_to(room.server, f"ai:{room.id}") as foreign,
        reading(room.history, room.id) as reader,
    ):
        await reader.until(lambda r: r.snapshots)
        await foreign.stream("r", "wrong", stop=False)
        await reader.until(lambda r: r.texts.get("r") == "wrong")
        await room.history.catch_up(room.id)
        await room.history.store_messages(room.id, [NewMessage("r", "assistant", text="right")])
        await room.ended(await room.history.replay(room.id, "r", mode="repair"))
        await reader.until(
            lambda r: (r.texts.get("r"), r.statuses.get("r")) == ("right", "completed")
        )


async def test_too_large_for_one_message_it_is_a_pointer_and_the_answer_says_so(room):
    text = "語" * 30_000
    await room.said("r", [text])
    await room.ended(await room.history.replay(room.id, "r", mode="repair"))
    (repair,) = [e for e in await room.events() if e.kind == "repair"]
    assert repair.is_pointer
    answer = await room.history.hydrate(room.id)
    (shown,) = answer.messages
    assert (shown["text"], shown["repaired"], shown["exact"]) == (text, repair.seq, True)


async def test_refused_for_its_rate_it_is_told_again(room):
    await room.said("r")
    with room.server.faults.on("refuse_publish", code=42911, count=2):
        replay = await room.history.replay(room.id, "r", mode="repair")
        assert (await room.ended(replay)).state == "done"
    assert [e.kind for e in await room.events() if (e.id or "").startswith(replay.id)] == [
        "repair",
        "stop",
    ]


async def test_what_is_not_whole_is_no_repair(room):
    async with publisher_to(room.server, f"ai:{room.id}") as foreign:
        await foreign.say("start", rid="r", seq=0)
        await foreign.say("token", "b", rid="r", seq=2)
        await foreign.say("stop", rid="r", seq=3)
        await room.history.store_messages(room.id, [NewMessage("p", "user", text="?")])
        with pytest.raises(Conflict, match="not stored whole"):
            await room.history.replay(room.id, "r", mode="repair")


WHOLE = folded(start(), token(1, "a"), token(2, "b"), token(3, "c"), stop(4))


@pytest.mark.parametrize(
    ("reader", "wanted"),
    [
        ([start(), token(1, "a")], Verdict.APPLY),
        ([start(), token(1, "a"), token(3, "c")], Verdict.AGAIN),
        ([start(), token(1, "x"), token(2, "y"), token(3, "z"), stop(4)], Verdict.AGAIN),
        ([start(), token(1, "a"), event("repair", 3, "abc"), stop(4)], Verdict.DROP),
    ],
)
def test_by_the_drop_rule_each_reader_takes_it_asks_again_or_has_it(reader, wanted):
    repair, _ = told_of(WHOLE, "x")
    assert verdict(folded(*reader), repair) is wanted


def test_whoever_missed_the_end_is_told_it():
    view = View({"messages": [], "reasons": []})
    for each in (start(), token(1, "a")):
        view.apply_event(each)
    for each in told_of(WHOLE, "x"):
        assert view.apply_event(each) is Verdict.APPLY
    (shown,) = view.messages
    assert (shown["text"], shown["status"]) == ("abc", "completed")


def test_whoever_has_the_answer_drops_it_or_asks_once():
    stored = state_of(message(WHOLE))
    repair, end = told_of(WHOLE, "x")
    assert verdict(stored, repair) is Verdict.AGAIN
    told = folded(
        repair, state=folded(start(), token(1, "a"), token(2, "b"), token(3, "c"), stop(4))
    )
    again = state_of(message(told))
    assert verdict(again, repair) is Verdict.DROP
    assert verdict(again, end) is Verdict.DROP

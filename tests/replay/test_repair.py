"""Repair: the text of every live reader becomes the stored text, which does not change."""

from __future__ import annotations

import json

import pytest

from core.builders import event, folded, start, stop, token
from participants import publisher_to, reading
from rehydrate import NewMessage
from rehydrate.core.client_view import Verdict, View, verdict
from rehydrate.core.wire import message, state_of
from rehydrate.errors import Conflict
from rehydrate.replay.repair import repair_events
from replay.replay_conversation import TOKENS

TEXT = "".join(TOKENS)


async def test_one_repair_with_the_id_of_the_response_is_published(chat):
    await chat.respond("r")
    before = json.loads(await chat.history.message(chat.id, "r"))
    replay = await chat.history.replay(chat.id, "r", mode="repair")
    assert (await chat.ended(replay)).state == "done"
    repairs = [e for e in await chat.events() if e.kind == "repair"]
    assert [(e.message_id, e.gen, e.seq) for e in repairs] == [("r", 1, len(TOKENS))]
    assert repairs[0].value == before["parts"]
    await chat.history.catch_up(chat.id)
    after = json.loads(await chat.history.message(chat.id, "r"))
    through = {**before["through"], "id": repairs[0].id}
    assert after == {**before, "repaired": len(TOKENS), "through": through}


async def test_the_stored_timings_survive_so_that_it_can_be_replayed_later(chat):
    await chat.respond("r", pause_s=0.02)
    await chat.ended(await chat.history.replay(chat.id, "r", mode="repair"))
    await chat.history.catch_up(chat.id)
    replay = await chat.history.replay(chat.id, "r", speed=0)
    assert (replay.chunks, replay.plan["even"]) == (len(TOKENS), False)
    await chat.ended(replay)


async def test_a_reader_with_another_text_receives_the_stored_one(chat):
    async with (
        publisher_to(chat.server, f"ai:{chat.id}") as foreign,
        reading(chat.history, chat.id) as reader,
    ):
        await reader.until(lambda r: r.snapshots)
        await foreign.stream("r", "wrong", stop=False)
        await reader.until(lambda r: r.texts.get("r") == "wrong")
        await chat.history.catch_up(chat.id)
        await chat.history.store_messages(chat.id, [NewMessage("r", "assistant", text="right")])
        await chat.ended(await chat.history.replay(chat.id, "r", mode="repair"))
        await reader.until(
            lambda r: (r.texts.get("r"), r.statuses.get("r")) == ("right", "completed")
        )


async def test_a_repair_that_is_too_large_for_one_message_is_a_pointer_to_the_answer(chat):
    text = "語" * 30_000
    await chat.respond("r", [text])
    await chat.ended(await chat.history.replay(chat.id, "r", mode="repair"))
    (repair,) = [e for e in await chat.events() if e.kind == "repair"]
    assert repair.is_pointer
    answer = await chat.history.hydrate(chat.id)
    (shown,) = answer.messages
    assert (shown["text"], shown["repaired"], shown["exact"]) == (text, repair.seq, True)


async def test_a_repair_that_is_refused_for_its_rate_is_published_again(chat):
    await chat.respond("r")
    with chat.server.faults.on("refuse_publish", code=42911, count=2) as fault:
        replay = await chat.history.replay(chat.id, "r", mode="repair")
        assert (await chat.ended(replay)).state == "done"
    assert fault.fired == 2
    assert [e.kind for e in await chat.events() if (e.id or "").startswith(replay.id)] == [
        "repair",
        "stop",
    ]


async def test_a_response_with_gaps_cannot_be_a_repair(chat):
    async with publisher_to(chat.server, f"ai:{chat.id}") as foreign:
        await foreign.publish_message("start", rid="r", seq=0)
        await foreign.publish_message("token", "b", rid="r", seq=2)
        await foreign.publish_message("stop", rid="r", seq=3)
        await chat.history.store_messages(chat.id, [NewMessage("p", "user", text="?")])
        with pytest.raises(Conflict, match="stored with gaps"):
            await chat.history.replay(chat.id, "r", mode="repair")


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
def test_by_the_drop_rule_each_reader_applies_it_reloads_or_has_it(reader, wanted):
    repair, _ = repair_events(WHOLE, "x")
    assert verdict(folded(*reader), repair) is wanted


def test_a_reader_who_missed_the_end_receives_it():
    view = View({"messages": [], "reasons": []})
    for each in (start(), token(1, "a")):
        view.apply_event(each)
    for each in repair_events(WHOLE, "x"):
        assert view.apply_event(each) is Verdict.APPLY
    (shown,) = view.messages
    assert (shown["text"], shown["status"]) == ("abc", "completed")


def test_a_reader_with_an_answer_drops_it_or_reloads_once():
    stored = state_of(message(WHOLE))
    repair, end = repair_events(WHOLE, "x")
    assert verdict(stored, repair) is Verdict.AGAIN
    repaired = folded(
        repair, state=folded(start(), token(1, "a"), token(2, "b"), token(3, "c"), stop(4))
    )
    again = state_of(message(repaired))
    assert verdict(again, repair) is Verdict.DROP
    assert verdict(again, end) is Verdict.DROP

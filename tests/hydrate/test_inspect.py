"""Inspect over real adapters: pieces, sources, publisher and lease; and the checks."""

from __future__ import annotations

import pytest

from rehydrate.errors import BadParameter, ChannelUnavailable, NotFound
from rehydrate.hydrate.inspect import Check, ServiceHealth, checked, inspect
from rehydrate.ports import Backlog
from rehydrate.record.import_messages import NewMessage


async def look(chat, message_id):
    return await inspect(chat.ctx, chat.id, message_id)


def sources(inspected):
    return [(s.source, s.first, s.last) for s in inspected.stretches]


async def test_a_response_that_is_only_on_the_channel_comes_from_history(chat):
    await chat.publish_response("r", "abc", stop=False)
    seen = await look(chat, "r")
    assert (seen.stored, seen.lease, seen.watermark) == (None, None, None)
    assert sources(seen) == [("history", 0, 3)]
    assert [tick.length for tick in seen.stretches[0].timings] == [0, 1, 1, 1]


async def test_recorded_events_come_from_the_database_and_later_ones_from_history(chat):
    await chat.publish_response("r", "ab", stop=False)
    await chat.catch_up()
    await chat.publish_message("token", "c", responseId="r", seq=3)
    seen = await look(chat, "r")
    assert seen.stored == ("in_progress", 2)
    assert sources(seen) == [("database", 0, 2), ("history", 3, 3)]
    assert seen.state.through.seq == 3
    assert seen.watermark is not None


async def test_an_old_finished_message_is_found_with_its_times(chat):
    await chat.publish_response("old", "abc")
    await chat.catch_up()
    for index in range(3):
        await chat.store_messages(NewMessage(f"m{index}", "user", text="x"))
    seen = await look(chat, "old")
    assert (seen.stored, sources(seen)) == (("completed", 4), [("database", 0, 3)])
    (stored,) = (await look(chat, "m1")).stretches
    assert (stored.is_whole, stored.source) == (True, "database")


async def test_a_publisher_is_shown_with_its_lease(chat):
    async with chat.respond("led") as response:
        response.write("so")
        seen = await look(chat, "led")
        assert seen.lease.holder
        assert (seen.lease.expired, seen.lease.fenced, seen.lease.stop_acked_ms) == (
            False,
            False,
            None,
        )
    seen = await look(chat, "led")
    assert (seen.lease.holder, seen.state.status) == (None, "completed")
    assert seen.lease.stop_acked_ms is not None


async def test_gaps_stay_between_the_stretches(chat):
    for seq, text in ((0, None), (1, "a"), (4, "d")):
        name = "start" if text is None else "token"
        await chat.publish_message(name, text, responseId="g", seq=seq)
    seen = await look(chat, "g")
    assert (seen.state.gaps(), sources(seen)) == (
        [(2, 3)],
        [("history", 0, 1), ("history", 4, 4)],
    )


async def test_an_unknown_message_is_not_found(chat):
    with pytest.raises(NotFound):
        await look(chat, "nobody")
    with pytest.raises(BadParameter, match="message_id"):
        await look(chat, "")


async def test_a_check_has_the_fault_and_the_time_it_took():
    async def well():
        return None

    async def ill():
        raise ChannelUnavailable("no answer in 5 s")

    assert (await checked(well)).fault is None
    check = await checked(ill)
    assert check.fault == "no answer in 5 s"
    assert check.ms >= 0


def test_recorders_are_behind_if_an_open_response_was_not_read_in_time():
    well = Check(None, 1)

    def health(backlog):
        return ServiceHealth(well, well, backlog, 0, 0, patience_s=60, now_ms=200_000)

    assert health(None).behind_s == health(Backlog(0, 0, None, 0)).behind_s == 0
    assert health(Backlog(1, 1, 140_000, 0)).behind_s == 0
    assert health(Backlog(1, 1, 130_000, 0)).behind_s == 10

"""Hydrate over real adapters: the store and the channel, joined into one answer."""

from __future__ import annotations

import asyncio
import json

import pytest

from rehydrate.background import PeriodicTask
from rehydrate.context import Prefetch
from rehydrate.core.positions import Cursor, at_or_before, channel_serial, decode_cursor
from rehydrate.errors import BadParameter, ChannelUnavailable, NotFound, StoreUnavailable
from rehydrate.hydrate import hydrate as hydration
from rehydrate.hydrate.history_window import HistorySource, from_channel
from rehydrate.hydrate.hydrate import MAX_LIMIT
from rehydrate.postgres.store import PostgresStore
from rehydrate.record.import_messages import NewMessage
from shared_adapters import HookedPort, Latch, channel_of, now_ms, within


async def test_an_unknown_conversation_is_empty_and_complete(chat):
    hydrated = await chat.hydrate()
    assert (hydrated.messages, hydrated.complete, hydrated.older) == ([], True, None)
    assert json.loads(hydrated.body)["channel"] == chat.name
    assert await chat.row() is None


async def test_an_answer_has_finished_and_open_responses(chat):
    await chat.store_messages(NewMessage("old", "assistant", text="long ago"))
    await chat.publish_message("user-input", {"promptId": "p", "text": "hi"}, client_id="ann")
    await chat.publish_response("done", "xyz")
    await chat.publish_response("open", "ab", stop=False)
    hydrated = await chat.hydrate()
    assert [(m["id"], m["text"], m["status"]) for m in hydrated.messages] == [
        ("old", "long ago", "completed"),
        ("p", "hi", "completed"),
        ("done", "xyz", "completed"),
        ("open", "ab", "in_progress"),
    ]
    assert hydrated.complete


@pytest.mark.parametrize("recorded_after", [0, 2, 5])
async def test_the_answer_is_the_same_however_much_of_it_is_recorded(chat, recorded_after):
    for index, text in enumerate(("ab", "cd")):
        await chat.publish_response(f"r{index}", text)
    await chat.publish_message("start", responseId="r2", seq=0)
    for seq, letter in enumerate("語😀é", 1):
        if seq == recorded_after - 1:
            await chat.catch_up()
        await chat.publish_message("token", letter, responseId="r2", seq=seq)
    if recorded_after == 5:
        await chat.catch_up()
    hydrated = await chat.hydrate()
    assert [(m["text"], m["gaps"]) for m in hydrated.messages] == [
        ("ab", []),
        ("cd", []),
        ("語😀é", []),
    ]
    assert hydrated.messages[2]["through"]["seq"] == 3


async def test_the_answer_reaches_at_least_the_attach_point(chat):
    await chat.publish_response("r", "ab", stop=False)
    async with chat.adapters.other.subscribe(chat.name) as subscription:
        point = subscription.attach_serial
        await chat.publish_message("token", "c", responseId="r", seq=3)
        hydrated = await chat.hydrate(until=point)
    (message,) = hydrated.messages
    assert message["text"].startswith("ab")
    assert at_or_before(point, hydrated.until)


async def test_history_that_lags_behind_the_attach_point_is_read_again(chat):
    with chat.faults.on("delay_history", ms=150, channel=chat.name):
        serial = await chat.publish_response("r", "ab")
        hydrated = await chat.hydrate(until=channel_serial(serial))
    assert [(m["text"], m["status"]) for m in hydrated.messages] == [("ab", "completed")]


async def test_an_ephemeral_response_that_ended_between_the_two_reads_is_complete(chat):
    """The channel keeps none of its text: the text committed before its end must be read."""
    latch = Latch()
    hydrating = chat.adapters.spawn(chat.hydrate(channel=HookedPort(chat.channel, history=latch)))
    await latch.reached()
    async with chat.respond("r", ephemeral=True) as response:
        response.write("all of it")
    latch.open()
    (message,) = (await hydrating).messages
    assert (message["text"], message["status"]) == ("all of it", "completed")
    assert message["gaps"] == []


async def test_the_channel_is_not_read_if_the_store_reaches_until(chat):
    serial = await chat.publish_response("r", "ab")
    await chat.catch_up(ahead_ms=10_000)

    async def read():
        pytest.fail("history was read")

    unread = HookedPort(chat.channel, history=read)
    hydrated = await chat.hydrate(until=channel_serial(serial), ahead_ms=10_000, channel=unread)
    assert [m["text"] for m in hydrated.messages] == ["ab"]
    assert hydrated.complete


async def test_a_prefetched_page_of_history_gives_the_same_answer(chat):
    await chat.publish_response("a", "ab")
    await chat.catch_up()
    await chat.publish_response("b", "cd", stop=False)
    plain = await chat.hydrate()
    for since_ms in (chat.ctx.prefetches.get(chat.id).since_ms, 0, now_ms() + 60_000):
        early = await chat.hydrate(
            source=HistorySource(from_channel, Prefetch(chat.name, since_ms))
        )
        assert early.messages == plain.messages


async def test_a_followed_conversation_is_read_from_its_received_messages(chat):
    await chat.publish_response("a", "ab", stop=False)
    asked, read = [], []

    async def received(until):
        asked.append(until)
        return HistorySource(reading) if until is None else None

    async def reading(ctx, query):
        read.append(query)
        return await from_channel(ctx, query)

    chat.ctx.followed[chat.id] = received
    newest = await chat.hydrate()
    assert (asked, len(read)) == ([None], 1)
    assert (await chat.hydrate(until=newest.until)).messages == newest.messages
    assert (asked, len(read)) == ([None, newest.until], 1)  # they did not reach it: the channel did
    await chat.hydrate(before=Cursor("z", "z"))
    assert len(asked) == 2  # an older page needs none of them


async def test_a_conversation_with_unrecorded_events_is_queued_for_the_recorder(chat):
    queue = chat.ctx.unrecorded
    queue.task = PeriodicTask("recorder", lambda: asyncio.sleep(0))
    await chat.publish_response("a", "ab")
    queue.task.open()
    try:
        await chat.hydrate()
        assert len(queue) == 1
        assert queue.take() == [chat.id]
    finally:
        await queue.task.close()


async def test_a_prefetch_of_another_channel_than_the_rows_is_dropped(chat):
    await chat.store_messages(NewMessage("old", "assistant", text="x"))
    await chat.publish_response("a", "ab")
    real, chat.name = chat.name, "ai:somewhere-else"
    hydrated = await chat.hydrate(source=HistorySource(from_channel, Prefetch(chat.name, 0)))
    assert (hydrated.channel, len(hydrated.messages)) == (real, 2)


@pytest.mark.parametrize(
    ("asked", "parameter"),
    [
        ({"until": ""}, "until"),
        ({"until": "x" * 257}, "until"),
        ({"until": "a\n"}, "until"),
        ({"limit": 0}, "limit"),
        ({"limit": MAX_LIMIT + 1}, "limit"),
    ],
)
async def test_an_argument_out_of_range_names_its_parameter(chat, asked, parameter):
    with pytest.raises(BadParameter) as caught:
        await chat.hydrate(**asked)
    assert caught.value.parameter == parameter


async def test_a_conversation_id_outside_the_syntax_names_its_parameter(chat):
    chat.id = "a*"
    with pytest.raises(BadParameter) as caught:
        await chat.hydrate()
    assert caught.value.parameter == "conversation_id"


class TestDegraded:
    async def test_without_the_channel_the_stored_part_is_the_answer(self, chat):
        await chat.store_messages(NewMessage("old", "assistant", text="kept"))
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        with chat.faults.on("fail_history", status=500):
            hydrated = await within(chat.hydrate(), 12)
        assert [(m["id"], m["text"]) for m in hydrated.messages] == [("old", "kept"), ("r", "ab")]
        assert not hydrated.complete
        assert [(r.code, r.retry) for r in hydrated.reasons] == [("history_unavailable", True)]

    async def test_a_channel_that_never_answers_is_a_reason(self, chat, monkeypatch):
        await chat.store_messages(NewMessage("old", "assistant", text="kept"))
        monkeypatch.setattr("rehydrate.hydrate.history_window.HISTORY_TIMEOUT_S", 0.3)
        with chat.faults.on("stall_requests", seconds=30):
            hydrated = await within(chat.hydrate(), 12)
        assert [m["text"] for m in hydrated.messages] == ["kept"]
        assert [(r.code, r.retry) for r in hydrated.reasons] == [("history_unavailable", True)]

    async def test_an_unreachable_channel_is_a_reason(self, chat, adapters):
        await chat.store_messages(NewMessage("old", "assistant", text="kept"))
        async with channel_of(adapters.server, request_timeout_s=0.5) as gone:
            with adapters.server.faults.on("stall_requests", seconds=30):
                hydrated = await within(chat.hydrate(channel=gone), 12)
        assert [r.code for r in hydrated.reasons] == ["history_unavailable"]

    async def test_a_refused_read_is_a_reason_without_retry(self, chat):
        await chat.store_messages(NewMessage("old", "assistant", text="kept"))
        with chat.faults.on("fail_history", status=401, code=40160):
            hydrated = await within(chat.hydrate(), 12)
        assert [m["text"] for m in hydrated.messages] == ["kept"]
        assert [(r.code, r.retry) for r in hydrated.reasons] == [("history_refused", False)]

    async def test_without_the_store_there_is_no_answer(self, chat):
        nowhere = PostgresStore("postgresql://nobody@127.0.0.1:1/none")
        await nowhere.open()
        try:
            with pytest.raises(StoreUnavailable):
                await within(chat.hydrate(store=nowhere), 30)
        finally:
            await nowhere.close()


class TestPages:
    async def read_back(self, chat, limit, **first):
        """All pages, newest first, each a list of ids."""
        pages, before = [], None
        while True:
            hydrated = await chat.hydrate(limit=limit, before=before)
            pages.append([m["id"] for m in hydrated.messages])
            if hydrated.older is None:
                return pages
            before = decode_cursor(hydrated.older)

    async def test_a_stored_open_response_that_ends_on_the_channel_is_on_a_page(self, chat):
        await chat.publish_response("early", "ab", stop=False)
        await chat.publish_response("late", "ab")
        await chat.catch_up()
        await chat.publish_message("stop", responseId="early")
        assert await self.read_back(chat, 1) == [["early", "late"]]

    @pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "on the channel only"])
    async def test_pages_go_back_to_the_first_message(self, chat, recorded):
        for index in range(5):
            await chat.publish_response(f"r{index}", "x")
        if recorded:
            await chat.catch_up()
        assert await self.read_back(chat, 2) == [["r3", "r4"], ["r1", "r2"], ["r0"]]

    @pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "on the channel only"])
    async def test_pages_are_stable_while_messages_arrive_and_end(self, chat, recorded):
        await chat.publish_response("open", "x", stop=False)
        for index in range(4):
            await chat.publish_response(f"r{index}", "x")
        if recorded:
            await chat.catch_up()
        first = await chat.hydrate(limit=2)
        assert [m["id"] for m in first.messages] == ["open", "r2", "r3"]
        await chat.publish_response("new", "x")
        if recorded:
            await chat.catch_up()
        second = await chat.hydrate(limit=2, before=decode_cursor(first.older))
        assert [m["id"] for m in second.messages] == ["r0", "r1"]
        assert second.older is None
        await chat.publish_message("stop", responseId="open", seq=2)
        if recorded:
            await chat.catch_up()
        third = await chat.hydrate(limit=2, before=decode_cursor(first.older))
        assert ([m["id"] for m in third.messages], third.older is None) == (["r0", "r1"], False)

    async def test_imported_messages_are_in_the_pages(self, chat):
        await chat.store_messages(*(NewMessage(f"s{i}", "assistant", text="x") for i in range(3)))
        await chat.publish_response("r0", "x")
        assert await self.read_back(chat, 2) == [["s2", "r0"], ["s0", "s1"]]

    async def test_a_settled_page_may_be_cached_and_the_newest_may_not(self, chat):
        for index in range(3):
            await chat.publish_response(f"r{index}", "x")
        await chat.catch_up()
        newest = await chat.hydrate(limit=2)
        assert not newest.settled
        assert (await chat.hydrate(limit=2, before=decode_cursor(newest.older))).settled

    async def test_exactly_a_page_has_no_older_one(self, chat):
        for index in range(2):
            await chat.publish_response(f"r{index}", "x")
        assert (await chat.hydrate(limit=2)).older is None
        await chat.catch_up()
        assert (await chat.hydrate(limit=2)).older is None


class TestSeam:
    async def test_windows_that_do_not_meet_are_a_reason(self, chat, adapters):
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        adapters.server.expire(chat.name)
        await chat.publish_message("token", "d", responseId="r", seq=4)
        hydrated = await chat.hydrate(ahead_ms=200_000)
        reasons = [(r.code, r.retry) for r in hydrated.reasons]
        assert reasons == [("history_expired", False), ("not_exact", False)]
        assert [(m["text"], m["gaps"]) for m in hydrated.messages] == [("abd", [[3, 3]])]

    async def test_windows_that_meet_are_complete_however_old_the_watermark(self, chat):
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        assert (await chat.hydrate(ahead_ms=200_000)).complete

    async def test_a_response_that_finished_between_the_two_reads_is_complete(self, chat):
        await chat.publish_response("r", "ab", stop=False)
        await chat.catch_up()
        latch = Latch()
        hydrating = chat.adapters.spawn(
            chat.hydrate(channel=HookedPort(chat.channel, history=latch))
        )
        await latch.reached()
        await chat.publish_message("token", "c", responseId="r", seq=3)
        await chat.publish_message("stop", responseId="r", seq=4)
        await chat.catch_up()
        latch.open()
        (message,) = (await within(hydrating)).messages
        assert (message["text"], message["status"]) == ("abc", "completed")

    async def test_a_repair_after_the_end_is_shown_before_it_is_recorded(self, chat):
        await chat.publish_response("r", "abc")
        await chat.catch_up()
        await chat.publish_message("response-complete", "aBc", responseId="r", seq=3)
        assert await chat.shown() == {"r": ("aBc", "completed")}
        await chat.publish_message("response-complete", "!", responseId="r", seq=2)
        unrecorded = await chat.hydrate()
        await chat.catch_up()
        assert (await chat.hydrate()).messages == unrecorded.messages

    async def test_a_repair_of_the_beginning_after_the_end_keeps_the_rest(self, chat):
        await chat.publish_response("r", "abc")
        await chat.catch_up()
        await chat.publish_message("response-complete", "AB", responseId="r", seq=2)
        assert await chat.shown() == {"r": ("ABc", "completed")}

    async def test_a_finished_message_outside_the_page_is_found(self, chat):
        await chat.publish_response("r0", "ab")
        await chat.catch_up()
        await chat.publish_response("r1", "x")
        await chat.publish_message("token", "z", responseId="r0", seq=2)
        hydrated = await chat.hydrate(limit=1)
        assert [(m["id"], m["text"]) for m in hydrated.messages] == [("r1", "x")]
        assert hydrated.older is not None

    async def test_anonymous_streams_continue_the_stored_text(self, chat):
        await chat.publish_message("token", "a")
        await chat.catch_up()
        await chat.publish_message("token", "b")
        await chat.publish_message("stop")
        await chat.catch_up()
        await chat.publish_message("token", "c")
        assert [text for text, _ in (await chat.shown()).values()] == ["ab", "c"]


async def test_a_pointer_whose_text_is_not_stored_means_again(chat):
    await chat.publish_response("r", "ab", stop=False)
    await chat.publish_message("response-complete", None, responseId="r", seq=2)
    hydrated = await chat.hydrate()
    assert [(r.code, r.retry) for r in hydrated.reasons] == [("store_behind", True)]


async def test_text_of_unknown_completeness_is_a_reason(chat):
    await chat.publish_message("token", "b", responseId="r")
    hydrated = await chat.hydrate()
    assert [(r.code, r.retry) for r in hydrated.reasons] == [("not_exact", False)]
    assert hydrated.messages[0]["exact"] is False


async def one(chat, message_id, **more):
    return json.loads(await hydration.hydrate_message(chat.ctx, chat.id, message_id, **more))


async def test_one_message_is_found_as_the_conversation_shows_it(chat):
    await chat.publish_message("user-input", {"promptId": "p", "text": "hi"})
    await chat.publish_response("old", "ab")
    await chat.catch_up()
    await chat.publish_response("done", "xyz")
    await chat.publish_response("open", "ab", stop=False)
    shown = (await chat.hydrate()).messages
    assert {m["id"] for m in shown} == {"p", "old", "done", "open"}
    assert [await one(chat, m["id"]) for m in shown] == shown
    await chat.catch_up()
    assert [await one(chat, m["id"]) for m in shown] == (await chat.hydrate()).messages


async def test_one_message_has_what_the_channel_added_since_it_was_stored(chat):
    await gapped(chat)
    await chat.publish_message("stop", responseId="r", seq=4)
    await chat.catch_up()
    await chat.publish_message("token", "b", responseId="r", seq=2)
    message = await one(chat, "r")
    assert (message["text"], message["gaps"]) == ("abc", [])


async def test_a_message_that_is_nowhere_is_not_found_unless_the_channel_is_away(chat):
    await chat.publish_response("r", "ab")
    for _ in range(2):
        with pytest.raises(NotFound):
            await one(chat, "unknown")
        await chat.catch_up()
    with chat.faults.on("fail_history", channel=chat.name) as fault:
        with pytest.raises(ChannelUnavailable):
            await one(chat, "unknown")
        assert (await one(chat, "r"))["text"] == "ab"
    assert fault.fired


async def gapped(chat):
    await chat.publish_message("start", responseId="r", seq=0)
    await chat.publish_message("token", "a", responseId="r", seq=1)
    await chat.publish_message("token", "c", responseId="r", seq=3)


async def test_an_answer_with_a_live_gap_is_not_complete(chat):
    await gapped(chat)
    hydrated = await chat.hydrate()
    assert hydrated.messages[0]["gaps"] == [[2, 2]]
    assert [(r.code, r.retry) for r in hydrated.reasons] == [("not_exact", False)]


@pytest.mark.parametrize("lack", ["gap", "start"])
async def test_an_answer_of_stored_rows_alone_is_complete_only_if_they_are_whole(chat, lack):
    if lack == "gap":
        await gapped(chat)
        await chat.publish_message("stop", responseId="r", seq=4)
    else:
        await chat.publish_message("token", "a", responseId="r")
        await chat.publish_message("stop", responseId="r")
    await chat.publish_response("whole", "ab")
    live = await chat.hydrate()
    await chat.catch_up()
    far_ms = 30 * 60_000
    stored = await chat.hydrate(ahead_ms=far_ms)
    older = await chat.hydrate(limit=1, before=decode_cursor((await chat.hydrate(limit=1)).older))
    for hydrated in (live, stored, older):
        assert [reason.code for reason in hydrated.reasons].count("not_exact") == 1
    assert "not_exact" not in [r.code for r in (await chat.hydrate(limit=1)).reasons]


async def test_only_agents_may_publish_responses(adapters):
    with adapters.conversation(agents=frozenset({"bot"})) as chat:
        await chat.publish_response("r", "x", stop=False)
        await chat.publish_message("user-input", {"promptId": "p", "text": "hi"}, client_id="ann")
        assert await chat.shown() == {"p": ("hi", "completed")}
        await chat.catch_up()
        assert await chat.shown() == {"p": ("hi", "completed")}


async def test_an_answer_that_may_not_reach_until_is_a_reason_with_retry(chat):
    ahead = await chat.hydrate(until=f"{now_ms() + 60_000:014d}-000@x")
    assert [(reason.code, reason.retry) for reason in ahead.reasons] == [
        ("history_unavailable", True)
    ]
    assert (await chat.hydrate(until=f"{now_ms() - 60_000:014d}-000@x")).complete


async def test_text_stored_while_the_channel_was_read_leaves_no_gap(chat, monkeypatch):
    """The stop is on the channel; the text, only in the store, was committed after the first load."""
    monkeypatch.setattr(hydration, "EPHEMERAL_LAG_S", 0.01)
    asked = Latch()
    publishing = chat.respond("r", ephemeral=True)
    response = await publishing.__aenter__()
    response.write("all of it")
    answering = asyncio.create_task(chat.hydrate(channel=HookedPort(chat.channel, history=asked)))
    await asked.reached()
    await publishing.__aexit__(None, None, None)
    asked.open()
    (message,) = (await within(answering)).messages
    assert (message["text"], message["status"], message["gaps"]) == ("all of it", "completed", [])


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_page_is_limited_by_bytes_and_the_older_ones_follow(chat, monkeypatch, recorded):
    monkeypatch.setattr(hydration, "PAGE_BYTES", 10_000)
    posted = [NewMessage(f"m{n}", "assistant", text=f"{n}" * 2_000) for n in range(9)]
    await chat.store_messages(*posted, NewMessage("long", "assistant", text="x" * 30_000))
    for n in range(3):
        await chat.publish_response(f"r{n}", ["y" * 3_000])
    await chat.publish_response("open", ["z" * 2_000], stop=False)
    if recorded:
        await chat.catch_up()
    found, before = [], None
    while True:
        hydrated = await chat.hydrate(before=before)
        sizes = [len(each) for each in hydrated.wires]
        finished = [each["id"] for each in hydrated.messages if each["status"] == "completed"]
        assert sum(sizes) <= 10_000 or len(finished) == 1
        found = [each["id"] for each in hydrated.messages] + found
        if hydrated.older is None:
            break
        before = decode_cursor(hydrated.older)
    assert found == [*(f"m{n}" for n in range(9)), "long", "r0", "r1", "r2", "open"]
    assert hydrated.complete

"""Foreign publishers that exceed limits or send invalid numbers, with a stock SDK."""

from __future__ import annotations

import math
import secrets

import pytest

from conftest import connected
from exactness.viewing import viewing
from participants import completed, history_over, publisher_to, reading
from rehydrate.core import client_view as reader
from rehydrate.core import timeline
from rehydrate.core.positions import decode_cursor
from rehydrate.core.text import content
from rehydrate.core.text.content import MAX_SEQ, TOO_LARGE
from rehydrate.follow import live_conversation as standing
from rehydrate.maintenance.sweeper import unannounced_end
from rehydrate.record import catch_up as recording
from rehydrate.record.import_messages import NewMessage
from shared_adapters import until

PIECE = "x" * 60_000


async def lines_of(chat):
    """Return the size of the conversation in the database, in bytes."""
    sql = """SELECT (SELECT coalesce(sum(length(body) + length(tape)), 0) FROM chunks
            WHERE conversation_id = $1)
        + (SELECT coalesce(sum(length(facts) + coalesce(length(wire), 0)
            + coalesce(length(tape), 0)), 0) FROM messages WHERE conversation_id = $1)"""
    async with connected(chat.adapters.database) as connection:
        return int(await connection.fetchval(sql, chat.id))


async def all_messages(chat):
    """Return the messages of every page, by id: an answer's bytes are limited, too."""
    page = await chat.hydrate()
    found = list(page.messages)
    while page.older is not None:
        page = await chat.hydrate(before=decode_cursor(page.older))
        found += page.messages
    by_id = {m["id"]: m for m in found}
    assert len(by_id) == len(found)
    return by_id


async def recorded_message(chat):
    """Return the message ``r`` of the answer; assert that recording does not change it."""
    before = await all_messages(chat)
    await chat.catch_up()
    after = await all_messages(chat)
    assert before == after
    assert after["beside"]["text"] == "intact"
    assert after["beside"]["status"] == "completed"
    return after["r"]


@pytest.mark.parametrize("numbered", [True, False])
async def test_a_response_above_ten_megabytes_ends_and_is_marked(chat, numbered):
    count = content.MAX_CHARACTERS // len(PIECE) + 20
    await chat.publish_response("beside", "int", stop=False)
    await chat.publish_message("start", responseId="r", **({"seq": 0} if numbered else {}))
    for seq in range(1, count + 1):
        await chat.publish_message(
            "token", PIECE, responseId="r", **({"seq": seq} if numbered else {})
        )
        if seq == count // 2:
            await chat.catch_up()
    await chat.publish_response("beside", "act", start=False, first=4)
    message = await recorded_message(chat)
    assert (message["status"], message["error"]) == ("incomplete", TOO_LARGE)
    assert message["text"] == PIECE * (len(message["text"]) // len(PIECE))
    assert content.MAX_CHARACTERS <= len(message["text"]) <= content.FOLDED_CHARACTERS
    held = await lines_of(chat)
    await chat.publish_message(
        "token", PIECE, responseId="r", **({"seq": count + 1} if numbered else {})
    )
    await chat.publish_message("stop", responseId="r", **({"seq": count + 2} if numbered else {}))
    assert await recorded_message(chat) == message
    assert await lines_of(chat) == held


@pytest.mark.parametrize(("limit", "most"), [("FOLDED_EVENTS", 40), ("FOLDED_STEPS", 10)])
@pytest.mark.parametrize("numbered", [True, False])
async def test_too_many_tokens_or_parts_also_end_a_response(
    chat, monkeypatch, numbered, limit, most
):
    monkeypatch.setattr(content, limit, most)
    for number in range(60):
        headers = {"responseId": "r", "part": f"p{number}"}
        await chat.publish_message("token", "x", **headers, **({"seq": number} if numbered else {}))
        if number == 20:
            await chat.catch_up()
    monkeypatch.setattr(content, limit, 1_000)
    await chat.publish_response("beside", "intact")
    monkeypatch.setattr(content, limit, most)
    message = await recorded_message(chat)
    assert (message["text"], len(message["parts"])) == ("x" * most, most)
    assert (message["status"], message["error"]) == ("incomplete", TOO_LARGE)


@pytest.mark.parametrize(
    "seq", [-1, 1.5, "x", "-1", 2**40, MAX_SEQ + 1, 1e300, True, [2], {"n": 2}, ""]
)
async def test_an_invalid_seq_is_ignored_and_counted(chat, seq):
    await chat.publish_message("start", responseId="r", seq=0)
    await chat.publish_message("token", "a", responseId="r", seq=1)
    await chat.publish_message("token", "?", responseId="r", seq=seq)
    await chat.publish_message("stop", responseId="r", seq=seq)
    await chat.publish_message("token", "b", responseId="r", seq=2)
    await chat.publish_message("stop", responseId="r", seq=3)
    await chat.publish_response("beside", "intact")
    assert (await chat.hydrate()).counts["ignored"] == 2
    assert (await chat.catch_up()).counts["ignored"] == 2
    message = await recorded_message(chat)
    assert (message["text"], message["status"], message["gaps"]) == ("ab", "completed", [])


async def test_a_huge_gap_is_declared_and_costs_nothing(chat):
    await chat.publish_message("start", responseId="r", seq=0)
    await chat.publish_message("token", "a", responseId="r", seq=1)
    await chat.publish_message("token", "z", responseId="r", seq=MAX_SEQ - 1)
    await chat.publish_message("stop", responseId="r", seq=MAX_SEQ)
    await chat.publish_response("beside", "intact")
    message = await recorded_message(chat)
    assert (message["text"], message["gaps"]) == ("az", [[2, MAX_SEQ - 2]])
    assert await lines_of(chat) < 10_000


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tool_call", {"name": "f", "args": math.pi}),
        ("tool_call", {"name": ["f"], "args": {"deep": [[[[]]]]}}),
        ("tool_call", {"name": "f" * 60_000}),
        ("tool_result", {"result": "x" * 60_000}),
        ("response-complete", {"parts": [{"type": "text", "text": "x"}] * 2_000}),
    ],
)
async def test_odd_and_large_tool_calls_and_repairs_leave_the_rest_exact(chat, name, data):
    await chat.publish_response("beside", "int", stop=False)
    await chat.publish_message("token", "a", responseId="r", seq=1)
    await chat.publish_message(name, data, responseId="r", seq=2, toolCallId="c")
    await chat.publish_message("token", "b", responseId="r", seq=3)
    await chat.publish_response("beside", "act", start=False, first=4)
    message = await recorded_message(chat)
    assert message["text"].endswith("b")
    assert (message["status"], message["gaps"]) == ("in_progress", [])


async def test_a_sweep_announces_an_end_whose_usage_exceeds_a_stop(chat):
    await chat.publish_response("r", "ab", stop=False)
    await chat.catch_up()
    usage = {"n": "x" * 100_000}
    await chat.store_messages(NewMessage("r", "assistant", text="ab", usage=usage))
    (state,) = await chat.store.states(chat.id, ["r"])
    repair, stop = unannounced_end(state)
    assert (repair.kind, stop.kind, stop.value, stop.status) == (
        "repair",
        "stop",
        None,
        "completed",
    )
    assert (await chat.message())["usage"] == usage


async def test_more_responses_than_may_be_open_are_refused_and_the_rest_stays_exact(
    chat, monkeypatch
):
    monkeypatch.setattr(timeline, "MAX_OPEN", 20)
    monkeypatch.setattr(recording, "PAGE", 7)
    await chat.publish_response("beside", "int", stop=False)
    for number in range(60):
        await chat.publish_message("start", responseId=f"x{number}", seq=0)
    async with chat.respond("ours") as response:
        response.write("our own")
    await chat.publish_response("beside", "act", start=False, stop=False, first=4)
    await chat.publish_message("user-input", {"promptId": "p", "text": "still here?"})
    answer = await chat.hydrate()
    assert answer.counts["refused"] == 41
    assert [(r.code, r.retry) for r in answer.reasons] == [("not_exact", False)]
    assert (await chat.catch_up()).counts == answer.counts
    for now in (answer, await chat.hydrate()):
        shown = {m["id"]: (m["text"], m["status"]) for m in now.messages}
        assert shown.pop("beside") == ("intact", "in_progress")
        assert shown.pop("ours") == ("our own", "completed")
        assert shown.pop("p") == ("still here?", "completed")
        assert shown == {f"x{n}": ("", "in_progress") for n in range(19)}
        assert not now.complete


async def test_refused_responses_stay_reported_when_there_is_room_again(chat, monkeypatch):
    monkeypatch.setattr(timeline, "MAX_OPEN", 2)
    for number in range(4):
        await chat.publish_message("start", responseId=f"x{number}", seq=0)
    await chat.catch_up()
    for number in range(2):
        await chat.publish_message("stop", responseId=f"x{number}", seq=1)
    await chat.catch_up()
    answer = await chat.hydrate(ahead_ms=60_000)
    assert [(r.code, r.retry) for r in answer.reasons] == [("history_expired", False)]


async def test_a_reader_sees_our_response_among_more_foreign_ones_than_are_kept(chat, monkeypatch):
    monkeypatch.setattr(timeline, "MAX_OPEN", 10)
    monkeypatch.setattr(reader, "MAX_OPEN", 10)
    async with viewing(chat) as viewer:
        for number in range(15):
            await chat.publish_message("start", responseId=f"x{number}", seq=0)
        async with chat.respond("ours") as response:
            response.write("our own")
        await until(lambda: viewer.texts.get("ours") == ("our own", "completed"))
        assert viewer.agains == 0


async def test_a_follower_receives_our_response_despite_many_foreign_ones(
    adapters, module_database, monkeypatch
):
    for module in (timeline, standing):
        monkeypatch.setattr(module, "MAX_OPEN", 4)
    conversation = f"f-{secrets.token_hex(4)}"
    async with (
        history_over(module_database, adapters.server) as history,
        publisher_to(adapters.server, f"ai:{conversation}") as publisher,
        reading(history, conversation) as follower,
    ):
        for number in range(12):
            await publisher.publish_message("start", rid=f"x{number}", seq=0)
        async with history.respond(conversation, "ours") as response:
            response.write("our own")
        await follower.until(completed("ours"))
        await publisher.publish_message("user-input", {"promptId": "p", "text": "still here?"})
        await follower.until(lambda r: r.texts.get("p") == "still here?")
        assert follower.reader.texts["ours"] == "our own"
        assert len(follower.reader.texts) <= 2 * 4 + 2
        await history.catch_up(conversation)
        states = await history._store.states(conversation, [f"x{n}" for n in range(12)])
        assert 0 < len(states) <= 4

"""What foreign publishers may send, through a stock SDK: more than fits, and numbers that are none."""

from __future__ import annotations

import math

import pytest

from conftest import connected
from exactness.rooms import open_house
from rehydrate.core import extent
from rehydrate.core.extent import MAX_SEQ, TOO_LARGE
from rehydrate.recording import NewMessage
from rehydrate.upkeep.sweeping import untold

PIECE = "x" * 60_000


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


async def lines_of(room):
    """How many bytes the database holds of the conversation."""
    sql = """SELECT (SELECT coalesce(sum(length(body) + length(tape)), 0) FROM chunks
            WHERE conversation_id = $1)
        + (SELECT coalesce(sum(length(facts) + coalesce(length(wire), 0)
            + coalesce(length(tape), 0)), 0) FROM messages WHERE conversation_id = $1)"""
    async with connected(room.house.database) as connection:
        return int(await connection.fetchval(sql, room.id))


async def told(room):
    """The message ``r`` as it is answered, and as it is once it is recorded: the same."""
    before = {m["id"]: m for m in (await room.hydrate()).messages}
    await room.catch_up()
    after = {m["id"]: m for m in (await room.hydrate()).messages}
    assert before == after
    assert after["beside"]["text"] == "intact"
    assert after["beside"]["status"] == "completed"
    return after["r"]


@pytest.mark.parametrize("numbered", [True, False])
async def test_ten_megabytes_and_more_end_a_response_that_says_so(room, numbered):
    count = extent.MOST_CHARACTERS // len(PIECE) + 20
    await room.tell("beside", "int", stop=False)
    await room.say("start", responseId="r", **({"seq": 0} if numbered else {}))
    for seq in range(1, count + 1):
        await room.say("token", PIECE, responseId="r", **({"seq": seq} if numbered else {}))
        if seq == count // 2:
            await room.catch_up()
    await room.tell("beside", "act", start=False, first=4)
    message = await told(room)
    assert (message["status"], message["error"]) == ("incomplete", TOO_LARGE)
    assert message["text"] == PIECE * (len(message["text"]) // len(PIECE))
    assert extent.MOST_CHARACTERS <= len(message["text"]) <= extent.FOLDED_CHARACTERS
    held = await lines_of(room)
    await room.say("token", PIECE, responseId="r", **({"seq": count + 1} if numbered else {}))
    await room.say("stop", responseId="r", **({"seq": count + 2} if numbered else {}))
    assert await told(room) == message
    assert await lines_of(room) == held


@pytest.mark.parametrize(("limit", "most"), [("FOLDED_EVENTS", 40), ("FOLDED_STEPS", 10)])
@pytest.mark.parametrize("numbered", [True, False])
async def test_more_tokens_or_parts_than_fit_end_it_likewise(
    room, monkeypatch, numbered, limit, most
):
    monkeypatch.setattr(extent, limit, most)
    for number in range(60):
        headers = {"responseId": "r", "part": f"p{number}"}
        await room.say("token", "x", **headers, **({"seq": number} if numbered else {}))
        if number == 20:
            await room.catch_up()
    monkeypatch.setattr(extent, limit, 1_000)
    await room.tell("beside", "intact")
    monkeypatch.setattr(extent, limit, most)
    message = await told(room)
    assert (message["text"], len(message["parts"])) == ("x" * most, most)
    assert (message["status"], message["error"]) == ("incomplete", TOO_LARGE)


@pytest.mark.parametrize(
    "seq", [-1, 1.5, "x", "-1", 2**40, MAX_SEQ + 1, 1e300, True, [2], {"n": 2}, ""]
)
async def test_a_seq_that_is_none_is_ignored_and_counted(room, seq):
    await room.say("start", responseId="r", seq=0)
    await room.say("token", "a", responseId="r", seq=1)
    await room.say("token", "?", responseId="r", seq=seq)
    await room.say("stop", responseId="r", seq=seq)
    await room.say("token", "b", responseId="r", seq=2)
    await room.say("stop", responseId="r", seq=3)
    await room.tell("beside", "intact")
    assert (await room.hydrate()).counts["ignored"] == 2
    assert (await room.catch_up()).counts["ignored"] == 2
    message = await told(room)
    assert (message["text"], message["status"], message["gaps"]) == ("ab", "completed", [])


async def test_a_gigantic_gap_is_declared_and_costs_nothing(room):
    await room.say("start", responseId="r", seq=0)
    await room.say("token", "a", responseId="r", seq=1)
    await room.say("token", "z", responseId="r", seq=MAX_SEQ - 1)
    await room.say("stop", responseId="r", seq=MAX_SEQ)
    await room.tell("beside", "intact")
    message = await told(room)
    assert (message["text"], message["gaps"]) == ("az", [[2, MAX_SEQ - 2]])
    assert await lines_of(room) < 10_000


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
async def test_odd_and_large_tool_calls_and_repairs_leave_the_rest_exact(room, name, data):
    await room.tell("beside", "int", stop=False)
    await room.say("token", "a", responseId="r", seq=1)
    await room.say(name, data, responseId="r", seq=2, toolCallId="c")
    await room.say("token", "b", responseId="r", seq=3)
    await room.tell("beside", "act", start=False, first=4)
    message = await told(room)
    assert message["text"].endswith("b")
    assert (message["status"], message["gaps"]) == ("in_progress", [])


async def test_a_sweep_tells_an_end_whose_usage_fits_no_stop(room):
    await room.tell("r", "ab", stop=False)
    await room.catch_up()
    usage = {"n": "x" * 100_000}
    await room.store_messages(NewMessage("r", "assistant", text="ab", usage=usage))
    (state,) = await room.store.states(room.id, ["r"])
    repair, stop = untold(state)
    assert (repair.kind, stop.kind, stop.value, stop.status) == (
        "repair",
        "stop",
        None,
        "completed",
    )
    assert (await room.message())["usage"] == usage

"""Messages that a backend hands over, stored over real rooms beside what the channel says."""

from __future__ import annotations

import pytest

from exactness.rooms import open_house
from rehydrate.errors import BadParameter, Conflict
from rehydrate.maintenance.sweeper import sweep
from rehydrate.ports import Due
from rehydrate.record.import_messages import NewMessage


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


async def test_what_is_stored_is_shown_in_the_order_in_which_it_was_given(room):
    result = await room.store_messages(
        NewMessage("p", "user", text="hi"),
        NewMessage(
            "r",
            "assistant",
            status="incomplete",
            parts=[{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "yes"}],
            prompt_id="p",
            usage={"n": 1},
            metadata={"k": "v"},
            started_ms=1_000,
            finished_ms=2_000,
        ),
    )
    assert result == (["p", "r"], [])
    prompt, response = (await room.hydrate()).messages
    assert (prompt["text"], prompt["role"], prompt["parts"]) == ("hi", "user", [])
    assert (response["text"], response["status"], response["prompt_id"]) == (
        "yes",
        "incomplete",
        "p",
    )
    assert (response["usage"], response["metadata"]) == ({"n": 1}, {"k": "v"})
    assert response["started_at"] == "1970-01-01T00:00:01.000Z"
    assert response["finished_at"] == "1970-01-01T00:00:02.000Z"


async def test_the_same_again_changes_nothing(room):
    said = NewMessage("r", "assistant", text="x", usage={"n": 1})
    await room.store_messages(said)
    before = (await room.hydrate()).messages
    assert await room.store_messages(said) == ([], ["r"])
    assert await room.store_messages(NewMessage("r", "assistant", text="x")) == ([], ["r"])
    assert (await room.hydrate()).messages == before


HUGE = 20_000_000_000_000_000_001
"""An integer that neither 64 bits nor a float can hold."""


async def test_integers_of_any_size_are_stored_and_shown_exactly(room):
    call = {"type": "tool_call", "tool_call_id": "c", "name": "f", "status": "completed"}
    said = NewMessage(
        "r",
        "assistant",
        parts=[{**call, "args": {"n": HUGE}, "result": [-HUGE]}],
        usage={"n": HUGE},
        metadata={"n": [HUGE]},
    )
    await room.store_messages(said)
    assert await room.store_messages(said) == ([], ["r"])
    [shown] = (await room.hydrate()).messages
    assert (shown["parts"][0]["args"], shown["parts"][0]["result"]) == ({"n": HUGE}, [-HUGE])
    assert (shown["usage"], shown["metadata"]) == ({"n": HUGE}, {"n": [HUGE]})


async def test_integers_of_any_size_in_an_open_response_are_recorded_exactly(room):
    await room.publish_message("start", responseId="r", seq=0)
    call = {"name": "f", "args": {"n": HUGE}}
    await room.publish_message("tool_call", call, responseId="r", seq=1, toolCallId="c")
    await room.catch_up()
    await room.publish_message(
        "tool_result", {"result": HUGE}, responseId="r", seq=2, toolCallId="c"
    )
    await room.catch_up()
    [part] = (await room.hydrate()).messages[0]["parts"]
    assert (part["args"], part["result"]) == ({"n": HUGE}, HUGE)


@pytest.mark.parametrize(
    "other",
    [
        {"text": "y"},
        {"status": "failed"},
        {"role": "user"},
        {"parts": [{"type": "refusal", "text": "x"}]},
        {"prompt_id": "q"},
        {"usage": {"n": 2}},
        {"metadata": {}},
        {"started_ms": 5},
        {"finished_ms": 5},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_the_same_id_with_other_content_is_refused_and_nothing_is_stored(room, other):
    said = {"role": "assistant", "text": "x", "usage": {"n": 1}, "prompt_id": "p"}
    await room.store_messages(NewMessage("r", **said))
    with pytest.raises(Conflict):
        await room.store_messages(
            NewMessage("new", "assistant", text="z"), NewMessage("r", **(said | other))
        )
    assert await room.shown() == {"r": ("x", "completed")}


async def test_the_same_id_twice_in_one_call_has_to_say_the_same(room):
    one, other = NewMessage("r", "assistant", text="x"), NewMessage("r", "assistant", text="y")
    assert (await room.store_messages(one, one)).stored == ["r"]
    with pytest.raises(Conflict):
        await room.store_messages(other, one)


async def test_a_message_that_is_repeated_in_one_call_is_stored_once(room):
    one, two = (NewMessage(id_, "assistant", text=id_) for id_ in ("one", "two"))
    assert await room.store_messages(one, two, two, one) == (["one", "two"], ["two", "one"])


async def test_an_open_response_of_somebody_else_is_finished(room):
    await room.publish_response("r", "ab", stop=False)
    await room.catch_up()
    assert (await room.store_messages(NewMessage("r", "assistant", text="ab!"))).stored == ["r"]
    assert await room.shown() == {"r": ("ab!", "completed")}
    await room.publish_message("token", "c", responseId="r", seq=3)
    await room.publish_message("stop", responseId="r", seq=4)
    assert await room.shown() == {"r": ("ab!", "completed")}
    await room.catch_up()
    assert await room.shown() == {"r": ("ab!", "completed")}
    assert await room.store_messages(NewMessage("r", "assistant", text="ab!")) == ([], ["r"])


async def test_what_the_store_knew_before_the_channel_said_it_stays(room):
    await room.store_messages(NewMessage("r", "assistant", text="said"))
    await room.publish_response("r", "other")
    assert await room.shown() == {"r": ("said", "completed")}
    await room.catch_up()
    assert await room.shown() == {"r": ("said", "completed")}


async def test_a_response_that_is_being_published_is_left_to_its_publisher(room):
    async with room.respond("r") as response:
        response.write("x")
        with pytest.raises(Conflict):
            await room.store_messages(NewMessage("r", "assistant", text="y"))
    assert await room.stored() == {"r": ("x", "completed")}


async def test_an_open_response_does_not_become_a_prompt(room):
    await room.publish_response("r", "ab", stop=False)
    await room.catch_up()
    with pytest.raises(Conflict):
        await room.store_messages(NewMessage("r", "user", text="ab"))


@pytest.mark.parametrize(
    ("new", "parameter"),
    [
        (NewMessage("r", "user", text="x", started_ms=-1), "started_ms"),
        (NewMessage("r", "user", text="x", finished_ms=253_402_300_800_000), "finished_ms"),
        (NewMessage("", "assistant", text="x"), "id"),
        (NewMessage("a\n", "assistant", text="x"), "id"),
        (NewMessage("x" * 257, "assistant", text="x"), "id"),
        (NewMessage("r", "robot", text="x"), "role"),
        (NewMessage("r", "assistant", status="in_progress", text="x"), "status"),
        (NewMessage("r", "assistant", parts=[{"type": "image"}]), "parts"),
        (NewMessage("r", "assistant", text="x", usage=float("nan")), "usage"),
        (NewMessage("r", "assistant", text="x", metadata={"a": b"b"}), "metadata"),
        (NewMessage("r", "assistant", text=5), "text"),
        (NewMessage("r", "assistant", text="x", prompt_id="\x00"), "prompt_id"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_what_is_no_message_is_refused_before_anything_is_stored(room, new, parameter):
    with pytest.raises(BadParameter) as caught:
        await room.store_messages(NewMessage("good", "assistant", text="x"), new)
    assert caught.value.parameter == parameter
    assert await room.row() is None


async def test_gaps_of_an_open_response_close_when_it_is_finished(room):
    await room.publish_message("start", responseId="r", seq=0)
    await room.publish_message("token", "c", responseId="r", seq=3)
    await room.catch_up()
    await room.store_messages(NewMessage("r", "assistant", text="abc"))
    (message,) = (await room.hydrate()).messages
    assert (message["text"], message["gaps"], message["exact"]) == ("abc", [], True)


@pytest.mark.parametrize("recorded", ["", "a", "ab"], ids=["nothing", "a part", "all"])
async def test_the_end_of_an_open_response_is_published_with_the_next_seqs(room, recorded):
    """Readers order the repair and the stop among the publisher's events by seq alone."""
    await room.claimed("r")
    if recorded:
        await room.publish_response("r", recorded, stop=False)
        await room.catch_up()
    rest = "ab"[len(recorded) :]
    await room.publish_response("r", rest, start=not recorded, stop=False, first=1 + len(recorded))
    await room.take_over("r")
    await room.store_messages(NewMessage("r", "assistant", text="ab!"))
    await swept(room, "r")
    published = [(m.name, m.extras["headers"].get("seq")) for m in await room.on_channel()]
    assert published[-2:] == [("response-complete", 2), ("stop", 3)]
    (message,) = (await room.hydrate()).messages
    assert (message["text"], message["status"], message["exact"]) == ("ab!", "completed", True)


async def test_an_open_response_is_finished_without_the_channel(room):
    await room.publish_response("r", "ab", stop=False)
    await room.catch_up()
    with room.faults.on("fail_history", status=400) as fault:
        assert (await room.store_messages(NewMessage("r", "assistant", text="ab!"))).stored == ["r"]
    assert fault.fired
    assert await room.shown() == {"r": ("ab!", "completed")}


async def swept(room, rid):
    async def record(_):
        return await room.catch_up()

    how = {"record": record, "lease_s": 0.0}
    assert await sweep(room.ctx, [Due(room.id, rid, room.name)], **how) == 1

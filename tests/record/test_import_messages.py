"""Messages that a backend stores itself, next to those on the channel, over real adapters."""

from __future__ import annotations

import pytest

from rehydrate.errors import BadParameter, Conflict
from rehydrate.maintenance.sweeper import sweep
from rehydrate.ports import Due
from rehydrate.record.import_messages import NewMessage


async def test_what_is_stored_is_shown_in_the_order_in_which_it_was_given(chat):
    result = await chat.store_messages(
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
    prompt, response = (await chat.hydrate()).messages
    assert (prompt["text"], prompt["role"], prompt["parts"]) == ("hi", "user", [])
    assert (response["text"], response["status"], response["prompt_id"]) == (
        "yes",
        "incomplete",
        "p",
    )
    assert (response["usage"], response["metadata"]) == ({"n": 1}, {"k": "v"})
    assert response["started_at"] == "1970-01-01T00:00:01.000Z"
    assert response["finished_at"] == "1970-01-01T00:00:02.000Z"


async def test_the_same_again_changes_nothing(chat):
    said = NewMessage("r", "assistant", text="x", usage={"n": 1})
    await chat.store_messages(said)
    before = (await chat.hydrate()).messages
    assert await chat.store_messages(said) == ([], ["r"])
    assert await chat.store_messages(NewMessage("r", "assistant", text="x")) == ([], ["r"])
    assert (await chat.hydrate()).messages == before


HUGE = 20_000_000_000_000_000_001
"""An integer that neither 64 bits nor a float can hold."""


async def test_integers_of_any_size_are_stored_and_shown_exactly(chat):
    call = {"type": "tool_call", "tool_call_id": "c", "name": "f", "status": "completed"}
    said = NewMessage(
        "r",
        "assistant",
        parts=[{**call, "args": {"n": HUGE}, "result": [-HUGE]}],
        usage={"n": HUGE},
        metadata={"n": [HUGE]},
    )
    await chat.store_messages(said)
    assert await chat.store_messages(said) == ([], ["r"])
    [shown] = (await chat.hydrate()).messages
    assert (shown["parts"][0]["args"], shown["parts"][0]["result"]) == ({"n": HUGE}, [-HUGE])
    assert (shown["usage"], shown["metadata"]) == ({"n": HUGE}, {"n": [HUGE]})


async def test_integers_of_any_size_in_an_open_response_are_recorded_exactly(chat):
    await chat.publish_message("start", responseId="r", seq=0)
    call = {"name": "f", "args": {"n": HUGE}}
    await chat.publish_message("tool_call", call, responseId="r", seq=1, toolCallId="c")
    await chat.catch_up()
    await chat.publish_message(
        "tool_result", {"result": HUGE}, responseId="r", seq=2, toolCallId="c"
    )
    await chat.catch_up()
    [part] = (await chat.hydrate()).messages[0]["parts"]
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
async def test_the_same_id_with_other_content_is_refused_and_nothing_is_stored(chat, other):
    said = {"role": "assistant", "text": "x", "usage": {"n": 1}, "prompt_id": "p"}
    await chat.store_messages(NewMessage("r", **said))
    with pytest.raises(Conflict):
        await chat.store_messages(
            NewMessage("new", "assistant", text="z"), NewMessage("r", **(said | other))
        )
    assert await chat.shown() == {"r": ("x", "completed")}


async def test_the_same_id_twice_in_one_call_has_to_say_the_same(chat):
    one, other = NewMessage("r", "assistant", text="x"), NewMessage("r", "assistant", text="y")
    assert (await chat.store_messages(one, one)).stored == ["r"]
    with pytest.raises(Conflict):
        await chat.store_messages(other, one)


async def test_a_message_that_is_repeated_in_one_call_is_stored_once(chat):
    one, two = (NewMessage(id_, "assistant", text=id_) for id_ in ("one", "two"))
    assert await chat.store_messages(one, two, two, one) == (["one", "two"], ["two", "one"])


async def test_an_open_response_of_somebody_else_is_finished(chat):
    await chat.publish_response("r", "ab", stop=False)
    await chat.catch_up()
    assert (await chat.store_messages(NewMessage("r", "assistant", text="ab!"))).stored == ["r"]
    assert await chat.shown() == {"r": ("ab!", "completed")}
    await chat.publish_message("token", "c", responseId="r", seq=3)
    await chat.publish_message("stop", responseId="r", seq=4)
    assert await chat.shown() == {"r": ("ab!", "completed")}
    await chat.catch_up()
    assert await chat.shown() == {"r": ("ab!", "completed")}
    assert await chat.store_messages(NewMessage("r", "assistant", text="ab!")) == ([], ["r"])


async def test_what_the_store_knew_before_the_channel_said_it_stays(chat):
    await chat.store_messages(NewMessage("r", "assistant", text="said"))
    await chat.publish_response("r", "other")
    assert await chat.shown() == {"r": ("said", "completed")}
    await chat.catch_up()
    assert await chat.shown() == {"r": ("said", "completed")}


async def test_a_response_that_is_being_published_is_left_to_its_publisher(chat):
    async with chat.respond("r") as response:
        response.write("x")
        with pytest.raises(Conflict):
            await chat.store_messages(NewMessage("r", "assistant", text="y"))
    assert await chat.stored() == {"r": ("x", "completed")}


async def test_an_open_response_does_not_become_a_prompt(chat):
    await chat.publish_response("r", "ab", stop=False)
    await chat.catch_up()
    with pytest.raises(Conflict):
        await chat.store_messages(NewMessage("r", "user", text="ab"))


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
async def test_what_is_no_message_is_refused_before_anything_is_stored(chat, new, parameter):
    with pytest.raises(BadParameter) as caught:
        await chat.store_messages(NewMessage("good", "assistant", text="x"), new)
    assert caught.value.parameter == parameter
    assert await chat.row() is None


async def test_gaps_of_an_open_response_close_when_it_is_finished(chat):
    await chat.publish_message("start", responseId="r", seq=0)
    await chat.publish_message("token", "c", responseId="r", seq=3)
    await chat.catch_up()
    await chat.store_messages(NewMessage("r", "assistant", text="abc"))
    (message,) = (await chat.hydrate()).messages
    assert (message["text"], message["gaps"], message["exact"]) == ("abc", [], True)


@pytest.mark.parametrize("recorded", ["", "a", "ab"], ids=["nothing", "a part", "all"])
async def test_the_end_of_an_open_response_is_published_with_the_next_seqs(chat, recorded):
    """Readers order the repair and the stop among the publisher's events by seq alone."""
    await chat.claimed("r")
    if recorded:
        await chat.publish_response("r", recorded, stop=False)
        await chat.catch_up()
    rest = "ab"[len(recorded) :]
    await chat.publish_response("r", rest, start=not recorded, stop=False, first=1 + len(recorded))
    await chat.take_over("r")
    await chat.store_messages(NewMessage("r", "assistant", text="ab!"))
    await swept(chat, "r")
    published = [(m.name, m.extras["headers"].get("seq")) for m in await chat.on_channel()]
    assert published[-2:] == [("response-complete", 2), ("stop", 3)]
    (message,) = (await chat.hydrate()).messages
    assert (message["text"], message["status"], message["exact"]) == ("ab!", "completed", True)


async def test_an_open_response_is_finished_without_the_channel(chat):
    await chat.publish_response("r", "ab", stop=False)
    await chat.catch_up()
    with chat.faults.on("fail_history", status=400) as fault:
        assert (await chat.store_messages(NewMessage("r", "assistant", text="ab!"))).stored == ["r"]
    assert fault.fired
    assert await chat.shown() == {"r": ("ab!", "completed")}


async def swept(chat, rid):
    async def record(_):
        return await chat.catch_up()

    how = {"record": record, "lease_s": 0.0}
    assert await sweep(chat.ctx, [Due(chat.id, rid, chat.name)], **how) == 1

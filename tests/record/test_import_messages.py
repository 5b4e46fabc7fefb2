"""Imports: finished messages of a backend, stored next to those of the channel."""

from __future__ import annotations

import pytest

from exactness.rooms import open_house
from rehydrate.errors import BadParameter, Conflict
from rehydrate.record.import_messages import NewMessage


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


async def test_imported_messages_are_shown_in_the_order_in_which_they_were_given(room):
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


async def test_importing_the_same_message_again_changes_nothing(room):
    message = NewMessage("r", "assistant", text="x", usage={"n": 1})
    await room.store_messages(message)
    before = (await room.hydrate()).messages
    assert await room.store_messages(message) == ([], ["r"])
    assert await room.store_messages(NewMessage("r", "assistant", text="x")) == ([], ["r"])
    assert (await room.hydrate()).messages == before


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
    content = {"role": "assistant", "text": "x", "usage": {"n": 1}, "prompt_id": "p"}
    await room.store_messages(NewMessage("r", **content))
    with pytest.raises(Conflict):
        await room.store_messages(
            NewMessage("new", "assistant", text="z"), NewMessage("r", **(content | other))
        )
    assert await room.shown() == {"r": ("x", "completed")}


async def test_the_same_id_twice_in_one_call_must_have_the_same_content(room):
    one, other = NewMessage("r", "assistant", text="x"), NewMessage("r", "assistant", text="y")
    assert (await room.store_messages(one, one)).stored == ["r"]
    with pytest.raises(Conflict):
        await room.store_messages(other, one)


async def test_an_open_response_of_a_foreign_publisher_is_finished(room):
    await room.tell("r", "ab", stop=False)
    await room.catch_up()
    assert (await room.store_messages(NewMessage("r", "assistant", text="ab!"))).stored == ["r"]
    assert await room.shown() == {"r": ("ab!", "completed")}
    await room.say("token", "c", responseId="r", seq=3)
    await room.say("stop", responseId="r", seq=4)
    assert await room.shown() == {"r": ("ab!", "completed")}
    await room.catch_up()
    assert await room.shown() == {"r": ("ab!", "completed")}
    assert await room.store_messages(NewMessage("r", "assistant", text="ab!")) == ([], ["r"])


async def test_an_imported_message_is_not_changed_by_later_channel_messages_with_its_id(room):
    await room.store_messages(NewMessage("r", "assistant", text="imported"))
    await room.tell("r", "other")
    assert await room.shown() == {"r": ("imported", "completed")}
    await room.catch_up()
    assert await room.shown() == {"r": ("imported", "completed")}


async def test_a_response_that_is_being_published_is_refused(room):
    async with room.respond("r") as response:
        response.write("x")
        with pytest.raises(Conflict):
            await room.store_messages(NewMessage("r", "assistant", text="y"))
    assert await room.stored() == {"r": ("x", "completed")}


async def test_an_open_response_does_not_become_a_prompt(room):
    await room.tell("r", "ab", stop=False)
    await room.catch_up()
    with pytest.raises(Conflict):
        await room.store_messages(NewMessage("r", "user", text="ab"))


@pytest.mark.parametrize(
    ("new", "parameter"),
    [
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
async def test_an_invalid_message_is_refused_before_anything_is_stored(room, new, parameter):
    with pytest.raises(BadParameter) as caught:
        await room.store_messages(NewMessage("good", "assistant", text="x"), new)
    assert caught.value.parameter == parameter
    assert await room.row() is None


async def test_gaps_of_an_open_response_close_when_it_is_finished(room):
    await room.say("start", responseId="r", seq=0)
    await room.say("token", "c", responseId="r", seq=3)
    await room.catch_up()
    await room.store_messages(NewMessage("r", "assistant", text="abc"))
    (message,) = (await room.hydrate()).messages
    assert (message["text"], message["gaps"], message["exact"]) == ("abc", [], True)

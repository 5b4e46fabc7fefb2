"""Prompts and cancels that a backend publishes on behalf of its users."""

from __future__ import annotations

import asyncio

import pytest

from exactness.rooms import Gate, Paused, open_house, within
from rehydrate.core.positions import insertion_position
from rehydrate.errors import BadParameter, ChannelUnavailable, Conflict, TooLarge
from rehydrate.publish import prompts as module
from rehydrate.publish.prompts import cancel, prompt
from rehydrate.publish.publish_queue import BATCH_BYTES


@pytest.fixture(scope="module")
async def house(module_database):
    async with open_house(module_database) as opened:
        yield opened


@pytest.fixture
def room(house):
    with house.room() as made:
        yield made


async def send(room, prompt_id, text, *, channel=None, store=None):
    ctx = room.context(channel=channel, store=store)
    assert await prompt(ctx, room.id, text, prompt_id=prompt_id) == prompt_id


async def test_a_prompt_has_the_same_position_on_the_channel_and_in_the_store(room):
    await send(room, "p", "Why? 語😀")
    (message,) = await room.on_channel()
    assert (message.name, message.data) == ("user-input", {"promptId": "p", "text": "Why? 語😀"})
    (state,) = await room.store.states(room.id, ["p"])
    assert (state.role, state.status, state.position) == ("user", "completed", message.serial)
    assert await room.shown() == {"p": ("Why? 語😀", "completed")}
    assert (await room.catch_up()).counts == {"old": 1}


async def test_a_prompt_whose_acknowledgement_has_no_serial_is_placed_by_its_time(
    room, monkeypatch
):
    publish = module._publish

    async def without_serial(*how):
        await publish(*how)

    monkeypatch.setattr(module, "_publish", without_serial)
    await send(room, "p", "Why?")
    (state,) = await room.store.states(room.id, ["p"])
    assert state.position == insertion_position(state.started_ms, 0)


async def test_a_repeated_prompt_is_not_published_again(room):
    for _ in range(2):
        await send(room, "p", "Why?")
    assert len(await room.on_channel()) == 1


async def test_a_prompt_that_was_published_but_not_stored_is_stored_at_its_position(room):
    """After a publisher that died in between, a retry stores the prompt at the same position."""
    serial = await room.publish_message("user-input", {"promptId": "p", "text": "Why?"})
    await room.catch_up()
    await send(room, "p", "Why?")
    (state,) = await room.store.states(room.id, ["p"])
    assert state.position == serial


async def test_a_faster_recorder_does_no_harm(room):
    published = Gate()
    sending = asyncio.create_task(
        send(room, "p", "Why?", store=Paused(room.store, locked=published))
    )
    await published.reached()
    assert (await room.catch_up()).counts == {"folded": 1}
    published.open()
    await within(sending)
    assert await room.shown() == {"p": ("Why?", "completed")}


async def test_the_same_id_with_other_text_is_a_conflict(room):
    await send(room, "p", "Why?")
    async with room.respond("r") as response:
        response.write("Why?")
    for taken, text in (("p", "How?"), ("r", "Why?")):
        with pytest.raises(Conflict):
            await send(room, taken, text)
    assert [m.name for m in await room.on_channel()].count("user-input") == 1


@pytest.mark.parametrize(
    ("prompt_id", "text", "error"),
    [
        ("", "x", BadParameter),
        ("p", "", BadParameter),
        ("p", "x" * (BATCH_BYTES + 1), TooLarge),
        ("p", "語" * (BATCH_BYTES // 3), TooLarge),
    ],
)
async def test_an_invalid_prompt_is_refused_and_not_published(room, prompt_id, text, error):
    with pytest.raises(error):
        await send(room, prompt_id, text)
    assert await room.on_channel() == []


async def test_without_ably_nothing_is_stored(room, monkeypatch):
    monkeypatch.setattr("rehydrate.publish.prompts.ACK_TIMEOUT_S", 0.2)

    async def never():
        await asyncio.Event().wait()

    channel = Paused(room.channel, **{"user-input": never})
    with pytest.raises(ChannelUnavailable):
        await send(room, "p", "Why?", channel=channel)
    assert await room.store.states(room.id, ["p"]) == []


async def test_a_cancel_names_its_response(room):
    await cancel(room.ctx, room.id, "r")
    (message,) = await room.on_channel()
    assert (message.name, message.extras["headers"]["responseId"]) == ("cancel", "r")
    with pytest.raises(BadParameter):
        await cancel(room.ctx, room.id, "")

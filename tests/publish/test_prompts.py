"""Prompts and cancels that a backend publishes on behalf of its users."""

from __future__ import annotations

import asyncio

import pytest

from rehydrate.core.positions import insertion_position
from rehydrate.errors import BadParameter, ChannelUnavailable, Conflict, TooLarge
from rehydrate.publish import prompts as module
from rehydrate.publish.prompts import cancel, prompt
from rehydrate.publish.publish_queue import BATCH_BYTES
from shared_adapters import HookedPort, Latch, within


async def send(chat, prompt_id, text, *, channel=None, store=None):
    ctx = chat.context(channel=channel, store=store)
    assert await prompt(ctx, chat.id, text, prompt_id=prompt_id) == prompt_id


async def test_a_prompt_has_the_same_position_on_the_channel_and_in_the_store(chat):
    await send(chat, "p", "Why? 語😀")
    (message,) = await chat.on_channel()
    assert (message.name, message.data) == ("user-input", {"promptId": "p", "text": "Why? 語😀"})
    (state,) = await chat.store.states(chat.id, ["p"])
    assert (state.role, state.status, state.position) == ("user", "completed", message.serial)
    assert await chat.shown() == {"p": ("Why? 語😀", "completed")}
    assert (await chat.catch_up()).counts == {"old": 1}


async def test_a_prompt_whose_acknowledgement_has_no_serial_is_placed_by_its_time(
    chat, monkeypatch
):
    publish = module._publish

    async def without_serial(*how):
        await publish(*how)

    monkeypatch.setattr(module, "_publish", without_serial)
    await send(chat, "p", "Why?")
    (state,) = await chat.store.states(chat.id, ["p"])
    assert state.position == insertion_position(state.started_ms, 0)


async def test_a_repeated_prompt_is_not_published_again(chat):
    for _ in range(2):
        await send(chat, "p", "Why?")
    assert len(await chat.on_channel()) == 1


async def test_a_prompt_that_was_published_but_not_stored_is_stored_at_its_position(chat):
    """After a publisher that died in between, a retry stores the prompt at the same position."""
    serial = await chat.publish_message("user-input", {"promptId": "p", "text": "Why?"})
    await chat.catch_up()
    await send(chat, "p", "Why?")
    (state,) = await chat.store.states(chat.id, ["p"])
    assert state.position == serial


async def test_a_faster_recorder_does_no_harm(chat):
    published = Latch()
    sending = asyncio.create_task(
        send(chat, "p", "Why?", store=HookedPort(chat.store, locked=published))
    )
    await published.reached()
    assert (await chat.catch_up()).counts == {"folded": 1}
    published.open()
    await within(sending)
    assert await chat.shown() == {"p": ("Why?", "completed")}


async def test_the_same_id_with_other_text_is_a_conflict(chat):
    await send(chat, "p", "Why?")
    async with chat.respond("r") as response:
        response.write("Why?")
    for taken, text in (("p", "How?"), ("r", "Why?")):
        with pytest.raises(Conflict):
            await send(chat, taken, text)
    assert [m.name for m in await chat.on_channel()].count("user-input") == 1


@pytest.mark.parametrize(
    ("prompt_id", "text", "error"),
    [
        ("", "x", BadParameter),
        ("p", "", BadParameter),
        ("p", "x" * (BATCH_BYTES + 1), TooLarge),
        ("p", "語" * (BATCH_BYTES // 3), TooLarge),
    ],
)
async def test_an_invalid_prompt_is_refused_and_not_published(chat, prompt_id, text, error):
    with pytest.raises(error):
        await send(chat, prompt_id, text)
    assert await chat.on_channel() == []


async def test_without_ably_nothing_is_stored(chat, monkeypatch):
    monkeypatch.setattr("rehydrate.publish.prompts.ACK_TIMEOUT_S", 0.2)

    late = Latch()
    channel = HookedPort(chat.channel, **{"user-input": late})
    with pytest.raises(ChannelUnavailable):
        await send(chat, "p", "Why?", channel=channel)
    assert await chat.store.states(chat.id, ["p"]) == []
    late.open()
    await chat.wait_for_history(1)


async def test_a_cancel_names_its_response(chat):
    await cancel(chat.ctx, chat.id, "r")
    (message,) = await chat.on_channel()
    assert (message.name, message.extras["headers"]["responseId"]) == ("cancel", "r")
    with pytest.raises(BadParameter):
        await cancel(chat.ctx, chat.id, "")

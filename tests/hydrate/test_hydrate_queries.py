"""The queries that a hydrate sends to the store."""

from __future__ import annotations

from shared_adapters import HookedPort


async def test_a_recorded_message_that_history_still_shows_is_not_queried_again(chat):
    await chat.publish_response("r", "ab")
    await chat.catch_up()
    queried = []

    async def query():
        queried.append(True)

    hydrated = await chat.hydrate(store=HookedPort(chat.store, states=query))
    assert [m["text"] for m in hydrated.messages] == ["ab"]
    assert not queried

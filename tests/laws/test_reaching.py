"""Law 3: an answer reaches at least the attach point; it may reach further, and states how far."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.readers import Life
from laws.test_joining import FEATURES
from laws.worlds import worlds
from rehydrate.core import wire
from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import at_or_before, channel_serial
from rehydrate.core.timeline import Timeline

SEARCHED = ["plain", "three responses", "everything with seq", "taken over", "no seq, until"]


async def answer_at(world, now_ms, until):
    life = Life(world)
    await life.until(now_ms)
    return json.loads((await life.hydrate(until=until)).body)


@pytest.mark.parametrize("name", SEARCHED)
def test_an_answer_contains_history_up_to_until_and_states_how_far_it_reaches(name):
    @settings(
        max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def search(data):
        world, joiner = data.draw(worlds(**FEATURES[name] | {"lagging": False, "most_lag_ms": 0}))
        messages = [each.message for each in world.log]
        now_ms = joiner.at_ms + joiner.delay_ms
        past = [m for m in messages if m.timestamp_ms <= min(joiner.at_ms, now_ms)]
        until = channel_serial(past[-1].serial) if past else None
        answer = asyncio.run(answer_at(world, now_ms, until))
        least = Timeline()
        least.fold(decode_all(past))
        shown = {message["id"]: message for message in answer["messages"]}
        for state in least.messages.values():
            message = shown[state.id]
            assert message["through"]["gen"] >= state.gen
            if message["through"]["gen"] == state.gen and state.seq is not None:
                assert message["through"]["seq"] >= state.seq
            assert state.status == "in_progress" or message["status"] == state.status
        if until is not None:
            assert at_or_before(until, answer["until"])
        told = Timeline()
        told.fold(decode_all(m for m in messages if m.serial <= (answer["until"] or "")))
        assert {id_: message["text"] for id_, message in shown.items()} == {
            state.id: wire.message(state)["text"] for state in told.messages.values()
        }

    search()
